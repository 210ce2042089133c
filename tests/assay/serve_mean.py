"""Run in a second process by the tests: `python serve_mean.py FIELD=VALUE...` hosts the scorers `mean` and `other`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from assay_doubles import MeanScorer

from assay.config import load_config
from assay.serving.lifecycle import ServeConfig, configure_logging, serve

if __name__ == "__main__":
    settings = load_config(ServeConfig, None, sys.argv[1:])
    configure_logging(settings.log_format)
    sys.exit(serve([MeanScorer(), MeanScorer("other", "f2")], settings))

"""Generated from proto/assay/v1 by proto/generate.py; do not edit."""

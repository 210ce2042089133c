"""Build the verifier service's scorers from the `scorer:` block of its YAML file. The serving kit hosts them."""

from typing import Any

from assay.questions import read_questions
from assay.serving.scorer import Scorer
from assay.vision_language.config import TransformersBlock
from assay.vision_language.judge import Judge
from assay.vision_language.models import build_judge_and_writer, load_model
from services.verifier.config import VerifierConfig, read_config
from services.verifier.scorer import VerifierScorer


def build_scorers(model_config: dict[str, Any]) -> list[Scorer]:
    """Load the model, or find its server, and return the scorers, which share it.

    Args:
        model_config: the `scorer:` block.

    Raises:
        ConfigError: the block is not valid, a template is not, or the server cannot do what is needed.
        ModelLoadError: the model cannot be found, or not be loaded completely.
    """
    config = read_config(model_config)
    templates = read_questions(config.templates)
    judge = _judge(config)
    return [VerifierScorer(name, judge, templates, config.protocol) for name in config.scorers]


def _judge(config: VerifierConfig) -> Judge:
    block, words = config.backend, config.answers
    if config.protocol == "sampled" and isinstance(block, TransformersBlock):
        # Here, for a judge elsewhere needs no torch.
        from services.verifier.sampled_judge import SampledJudge

        vlm = load_model(block, words.affirmative)
        return SampledJudge(vlm, words.affirmative, words.negative, temperature=config.temperature)
    judge, _ = build_judge_and_writer(block, words, judges=True, writes=False)
    assert judge is not None
    return judge

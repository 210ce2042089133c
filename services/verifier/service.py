"""Build the verifier service's scorers from the `scorer:` block of its YAML file. The serving kit hosts them."""

from typing import Any

from assay.questions import read_questions
from assay.serving.scorer import Scorer
from services.verifier.config import OpenAiBlock, TransformersBlock, VerifierConfig, read_config
from services.verifier.judges.judge import Judge
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
    if isinstance(config.backend, OpenAiBlock):
        from services.verifier.judges.openai_judge import OpenAiJudge

        return OpenAiJudge(config.backend, config.answers)
    return _local_judge(config, config.backend)


def _local_judge(config: VerifierConfig, block: TransformersBlock) -> Judge:
    # Here, for a judge elsewhere needs no torch.
    from assay.answer_tokens import find_answer_tokens
    from services.verifier.judges.sampled_judge import SampledJudge
    from services.verifier.judges.transformers_judge import TransformersJudge
    from services.verifier.judges.vision_language_model import VisionLanguageModel

    yes, no = config.answers.affirmative, config.answers.negative
    vlm = VisionLanguageModel.load(
        block.model, affirmation=yes, **block.model_dump(exclude={"name", "model", "max_images_per_pass"})
    )
    if config.protocol == "sampled":
        return SampledJudge(vlm, yes, no, temperature=config.temperature)
    tokens = find_answer_tokens(vlm.tokenizer, yes, no, config.answers.forms)
    return TransformersJudge(vlm, tokens, max_images_per_pass=block.max_images_per_pass)

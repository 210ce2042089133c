"""From a `backend:` block to the model that it names, for services that have one of them judge, write, or both."""

from typing import TYPE_CHECKING

from assay.vision_language.config import AnswersBlock, OpenAiBlock, TransformersBlock
from assay.vision_language.judge import Judge
from assay.vision_language.writer import Writer

if TYPE_CHECKING:
    from assay.vision_language.vision_language_model import VisionLanguageModel


def load_model(block: TransformersBlock, affirmation: str) -> "VisionLanguageModel":
    """The model in this process.

    Raises:
        ModelLoadError: it cannot be found, or not be loaded completely.
    """
    # Here, for a model elsewhere needs no torch.
    from assay.vision_language.vision_language_model import VisionLanguageModel

    settings = block.model_dump(exclude={"name", "model", "max_images_per_pass"})
    return VisionLanguageModel.load(block.model, affirmation=affirmation, **settings)


def build_judge_and_writer(
    block: TransformersBlock | OpenAiBlock, answers: AnswersBlock, *, judges: bool, writes: bool
) -> tuple[Judge | None, Writer | None]:
    """Whichever is wanted, on one model.

    Raises:
        ConfigError: the server cannot do what is wanted, or the words are no tokens.
        ModelLoadError: the model cannot.
    """
    if isinstance(block, OpenAiBlock):
        from assay.vision_language.chat_server import ChatServer
        from assay.vision_language.openai_judge import OpenAiJudge
        from assay.vision_language.openai_writer import OpenAiWriter

        server = ChatServer(block, answers.affirmative)
        return OpenAiJudge(server, answers) if judges else None, OpenAiWriter(server) if writes else None
    from assay.answer_tokens import find_answer_tokens
    from assay.vision_language.transformers_judge import TransformersJudge
    from assay.vision_language.transformers_writer import TransformersWriter

    vlm, most = load_model(block, answers.affirmative), block.max_images_per_pass
    judge = None
    if judges:
        tokens = find_answer_tokens(vlm.tokenizer, answers.affirmative, answers.negative, answers.forms)
        judge = TransformersJudge(vlm, tokens, max_images_per_pass=most)
    return judge, TransformersWriter(vlm, max_images_per_pass=most) if writes else None

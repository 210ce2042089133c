"""Which code decides what a model is asked and how its answer is read: parts of the fingerprint of all who ask one."""

from pathlib import Path

from assay import answer_tokens, questions
from assay.files import digest_file
from assay.serving.fingerprint import digest_code

#: With what verifiers are trained with, too: how questions are filled, and which tokens are yes and no.
CODE = {
    "vision_language": digest_code(Path(__file__).parent),
    **{module.__name__: digest_file(Path(str(module.__file__))) for module in (answer_tokens, questions)},
}

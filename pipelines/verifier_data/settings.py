"""The arguments of `assay data verifier`. Defaults of the data are the published ones (arXiv 2501.13926, section 4)."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from assay.client_tls import ClientTls
from assay.config import ConfigModel
from assay.questions import QuestionFiles
from generators.precision import Precision
from pipelines.engine.settings import BatchSettings


class DerivationSettings(ConfigModel):
    """How examples are made of candidates and labels. None of it changes a picture.

    Args:
        clear_above: a picture is clear if it was drawn by more than this share of the steps.
        unclear_below: it is not if it was by less. What lies between is left out.
        outcome_share: of the finished pictures, the share that is asked about in `parm.json` too.
        balance: `tag` leaves out as many answers as it takes for as many yes as no within each tag.
        pairs_per_prompt: of a right picture and a wrong one.
        held_out: share of the prompts, or of the candidates, that is kept for measuring.
        split_by: `prompt` holds out whole prompts; `seed` holds out candidates of every prompt, for few prompts.
        split_seed: another number draws another split, other pairs, and others to leave out.
        questions: files with the questions, instead of the service's own.
    """

    clear_above: float = Field(default=11 / 18, ge=0, le=1)
    unclear_below: float = Field(default=10 / 18, ge=0, le=1)
    outcome_share: float = Field(default=0.7, ge=0, le=1)
    balance: Literal["none", "tag"] = "none"
    pairs_per_prompt: int = Field(default=1, ge=0)
    held_out: float = Field(default=0.1, ge=0, lt=1)
    split_by: Literal["prompt", "seed"] = "prompt"
    split_seed: int = 0
    questions: QuestionFiles = QuestionFiles()

    @model_validator(mode="after")
    def _no_picture_is_both(self) -> "DerivationSettings":
        if self.unclear_below > self.clear_above:
            raise ValueError(
                f"unclear_below = {self.unclear_below} is above clear_above = {self.clear_above}: pictures between "
                "them would be clear and not clear"
            )
        return self


class VerifierDataSettings(DerivationSettings, ClientTls, BatchSettings):
    """What to draw, who labels it, and where to write.

    Args:
        model: a Show-o folder, or a diffusers text-to-image model (finished pictures alone), folder or hub name.
        lora: on top of it: its folder, or a training run's.
        prompts: JSONL in GenEval's form, a task a line.
        exclude: JSONL files in GenEval's form whose prompts are not drawn: those that verifiers will be measured on.
        output: for the pictures, the labels, and the files that are made of them.
        num_candidates: pictures of each prompt.
        steps: Show-o's steps, counted from 1, whose pictures are kept beside the finished one; `all`, or none at all
            (`[]`), which is what other models have.
        num_steps: of the sampler; the model's own where None, as all that follow.
        guidance_scale: of classifier-free guidance.
        temperature: of Show-o's sampling, in [0, 1].
        height: in pixels.
        width: in pixels.
        max_sequence_length: tokens of a prompt, for models that take it.
        targets: addresses of the replicas of the service that labels: GenEval's, or the spatial one.
        scorer: which of its scorers.
        component: its number that is the label: 1 is yes, 0 is no.
        abstained: what a picture is on which the scorer abstains: `wrong`, or `fail`, and its prompt with it.
        further_prompts: so many other prompts of the file, those most like its own, that each finished picture is
            labelled by, too; they are learnt, not measured on.
        max_prompts: only the first; -1 is all.
        seed: another number gives other candidates.
        batch_size: candidates drawn in one pass.
        deadline_s: for the labels of one prompt, all retries included.
        dtype: of the weights; `auto` is bfloat16 on a GPU and float32 on the CPU.
    """

    model: str
    lora: str | None = None
    prompts: Path
    exclude: tuple[Path, ...] = ()
    output: Path = Path("verifier_data")
    num_candidates: int = Field(default=50, ge=1)
    steps: Literal["all"] | tuple[int, ...] = "all"
    num_steps: int | None = Field(default=None, ge=1)
    guidance_scale: float | None = Field(default=None, ge=0)
    temperature: float | None = Field(default=None, ge=0, le=1)
    height: int | None = Field(default=None, ge=16)
    width: int | None = Field(default=None, ge=16)
    max_sequence_length: int | None = Field(default=None, ge=0)
    targets: tuple[str, ...] = Field(default=("localhost:50051",), min_length=1)
    scorer: str = "geneval"
    component: str = "correct"
    abstained: Literal["fail", "wrong"] = "fail"
    further_prompts: int = Field(default=0, ge=0)
    max_prompts: int = Field(default=-1, ge=-1)
    seed: int = 1234
    batch_size: int = Field(default=25, ge=1)
    deadline_s: float = Field(default=600.0, gt=0)
    dtype: Precision = "auto"

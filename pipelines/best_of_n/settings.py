"""The arguments of `assay best-of-n`; names and defaults are those of the system's own description."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from assay.client_tls import ClientTls
from assay.config import ConfigModel
from generators.precision import Precision
from pipelines.engine.settings import BatchSettings

#: Stands in the path of the results.
FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
RewardModel = Literal["none", "orm_zs", "orm_ft", "parm"]


class VerifierSettings(ConfigModel):
    """Where a verifier is served.

    Args:
        targets: addresses of the service's replicas.
        outcome_scorer: judges finished images. Any scorer will do: GenEval's own gives the upper bound.
        clarity_scorer: says of an unfinished image whether it is clear enough to be judged.
        potential_scorer: says whether it can become a good one.
    """

    targets: tuple[str, ...] = Field(min_length=1)
    outcome_scorer: str = "orm"
    clarity_scorer: str = "parm-clarity"
    potential_scorer: str = "parm-potential"


class ParmSettings(ConfigModel):
    """How paths are judged on the way.

    Args:
        clarity: an image is clear from this probability on; once clear, it is not asked about again.
        potential: a path whose clear image has less is given up.
        first_step: of the sampler, from 0, whose image is looked at first.
        prune: give unpromising paths up at once. Otherwise they are drawn to the end, which costs more and chooses the
            same image.
    """

    clarity: float = Field(default=0.5, ge=0, le=1)
    potential: float = Field(default=0.5, ge=0, le=1)
    first_step: int = Field(default=0, ge=0)
    prune: bool = True


class BestOfNSettings(ClientTls, BatchSettings):
    """What to draw, who chooses, and where to write.

    Args:
        model: a Show-o folder (see `generators.showo.pipeline`) or a diffusers text-to-image model, folder or hub name.
        prompts_file: a prompt a line.
        metadata_file: JSONL in GenEval's form, a task a line; alone, or line by line beside `prompts_file`.
        name: what the results are called by; None takes the last part of `model`.
        outdir: for `<name>[_<reward model>][_<dpo model>]/<index>/`, in the layout that GenEval evaluates.
        reward_model: who chooses; `none` draws one image and keeps it.
        verifiers: where each reward model is served.
        dpo_model: draw with this one of `dpo_models`.
        dpo_models: name -> a whole model's folder, or a LoRA for `model`.
        search_num: candidates for each image, N.
        eval_num: images for each prompt.
        generation_timesteps: steps of the sampler; this and the next four are the pipeline's own where they are None.
        guidance_scale: of classifier-free guidance.
        height: in pixels.
        width: in pixels.
        max_sequence_length: tokens of a prompt, for models that take it.
        temperature_carry: reproduce the released scripts, which draw all candidates of a prompt but the first at
            temperature 0; Show-o only.
        parm: how paths are judged on the way; only used with `reward_model: parm`.
        keep_candidates: keep all candidates' last images, too, in `process/`.
        candidates: folder for finished candidates. Runs that would draw the same ones, to let another verifier choose
            among them or more of them, take them from there. Not with `parm`, whose candidates are judged unfinished,
            nor with `temperature_carry`, where they depend on those before them.
        max_prompts: only the first; -1 is all.
        seed: another number gives other candidates. They are the same for every reward model.
        batch_size: candidates drawn in one pass.
        deadline_s: for one question to a verifier about some images, all retries included.
        dtype: of the weights; `auto` is bfloat16 on a GPU and float32 on the CPU.
    """

    model: str
    name: FolderName | None = None
    prompts_file: Path | None = None
    metadata_file: Path | None = None
    outdir: Path = Path("results")
    reward_model: RewardModel = "none"
    verifiers: dict[Literal["orm_zs", "orm_ft", "parm"], VerifierSettings] = Field(default_factory=dict)
    dpo_model: str | None = None
    dpo_models: dict[FolderName, Path] = Field(
        default_factory=lambda: {name: Path("ckpts") / name for name in ("dpo", "dpo_iter", "dpo_iter_parm_guide")}
    )
    search_num: int = Field(default=20, ge=1)
    eval_num: int = Field(default=4, ge=1)
    generation_timesteps: int | None = Field(default=None, ge=1)
    guidance_scale: float | None = Field(default=None, ge=0)
    height: int | None = Field(default=None, ge=16)
    width: int | None = Field(default=None, ge=16)
    max_sequence_length: int | None = Field(default=None, ge=0)
    temperature_carry: bool = False
    parm: ParmSettings = ParmSettings()
    keep_candidates: bool = False
    candidates: Path | None = None
    max_prompts: int = Field(default=-1, ge=-1)
    seed: int = 1234
    batch_size: int = Field(default=20, ge=1)
    deadline_s: float = Field(default=600.0, gt=0)
    dtype: Precision = "auto"

    @property
    def variant(self) -> str:
        """Name of the folder below `outdir`."""
        parts = [self.name or Path(self.model).name, *([] if self.reward_model == "none" else [self.reward_model])]
        return "_".join([*parts, *([self.dpo_model] if self.dpo_model else [])])

    @property
    def verifier(self) -> VerifierSettings | None:
        """The one that chooses; None where nobody does."""
        return None if self.reward_model == "none" else self.verifiers[self.reward_model]

    @field_validator("reward_model", mode="before")
    @classmethod
    def _nobody(cls, value: object) -> object:
        return value or "none"

    @field_validator("dpo_model", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return value or None

    @model_validator(mode="after")
    def _names_are_known(self) -> "BestOfNSettings":
        if self.prompts_file is None and self.metadata_file is None:
            raise ValueError("give prompts_file or metadata_file")
        if self.reward_model != "none" and self.reward_model not in self.verifiers:
            raise ValueError(
                f"reward_model = {self.reward_model!r} needs verifiers.{self.reward_model}.targets, the address of the "
                "service that has it"
            )
        if self.candidates is not None and (self.reward_model == "parm" or self.temperature_carry):
            other = "reward_model = 'parm'" if self.reward_model == "parm" else "temperature_carry = true"
            raise ValueError(f"candidates = {str(self.candidates)!r} with {other}; allowed with it: null")
        if self.dpo_model is not None and self.dpo_model not in self.dpo_models:
            raise ValueError(f"dpo_model = {self.dpo_model!r}; allowed: {', '.join(self.dpo_models)}")
        return self

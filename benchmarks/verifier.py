"""Candidates judged per second, beside the published verifiers' way on the same model, in one run.

Best-of-N asks the same questions about N = 20 images of one prompt. The published way takes one image at a time and
lets the model generate with sampling, up to 100 tokens, though only the first is read; clarity and potential are two
conversations. Here one forward pass answers for a batch of images, and the second question goes on from the first.
How long the published way takes depends on how soon the model stops: a tuned one says its word and the end mark, 2
tokens; one with random weights never stops. So it is timed both ways, and the ratio to state is the one at 2 tokens.

    python benchmarks/verifier.py [--model miniature/weights/verifier] [--candidates 20] [--repeats 3]

Where there is no such folder, it is timed on the miniature's architecture with random weights. Both ways get the same
images, words and threads; the service's own overhead is not in it (benchmarks/null_scorer.py measures that).
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from assay.answer_tokens import find_answer_tokens
from assay.questions import QUESTION_FILES, read_questions
from assay.serving.scorer import Sample
from assay.tasks import PotentialTask
from assay.vision_language.judge import Judge
from assay.vision_language.transformers_judge import TransformersJudge
from assay.vision_language.vision_language_model import VisionLanguageModel
from miniature.vlm import build_vlm, save_vlm
from services.verifier.sampled_judge import SampledJudge
from services.verifier.scorer import VerifierScorer

PUBLISHED_TOKENS, ANSWER_TOKENS = 100, 2
PROMPT = "a photo of three apples"


def load(model: Path, device: str, dtype: str) -> VisionLanguageModel:
    """The model of a folder or hub name; if it is the miniature's and not there, one with random weights."""
    if model.is_dir() or model != Path("miniature/weights/verifier"):
        return VisionLanguageModel.load(str(model), affirmation="yes", device=device, dtype=dtype)
    print(f"{model} is not there: random weights in its place")
    with tempfile.TemporaryDirectory() as folder:
        texts = [path.read_text() for path in sorted(QUESTION_FILES.glob("*.txt"))]
        save_vlm(Path(folder), *build_vlm(texts))
        return VisionLanguageModel.load(folder, affirmation="yes", device=device, dtype=dtype)


def samples(scorer: str, candidates: int, side: int) -> list[Sample]:
    """Random images of `side` pixels, all of one prompt."""
    images = np.random.default_rng(0).integers(0, 256, (candidates, side, side, 3), dtype=np.uint8)
    task = None if scorer == "orm" else PotentialTask(9, 18)
    return [Sample(str(index), (image,), PROMPT, task) for index, image in enumerate(images)]


def images_per_second(scorer: VerifierScorer, batch: list[Sample], repeats: int) -> float:
    """The median over `repeats` runs, after one to warm up."""
    scorer.score(batch[:1])
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        scorer.score(batch)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return len(batch) / statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("miniature/weights/verifier"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--side", type=int, default=64, help="of the images, in pixels")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()

    vlm = load(args.model, args.device, args.dtype)
    templates = read_questions()
    tokens = find_answer_tokens(vlm.tokenizer, "yes", "no", "any")
    ways: list[tuple[str, str, Judge]] = [
        ("one forward pass", "logits", TransformersJudge(vlm, tokens, max_images_per_pass=args.candidates)),
        *(
            (f"generate, {count} tokens", "sampled", SampledJudge(vlm, "yes", "no", max_new_tokens=count))
            for count in (ANSWER_TOKENS, PUBLISHED_TOKENS)
        ),
    ]
    where = f"{vlm.model.device}, {torch.get_num_threads()} threads"
    print(f"{type(vlm.model).__name__} on {where}, {args.candidates} candidates")
    print(f"{'scorer':<16}{'way':<24}{'images/s':>10}{'ratio':>8}")
    for scorer in ("orm", "parm-potential"):
        batch = samples(scorer, args.candidates, args.side)
        here = 0.0
        for way, protocol, judge in ways:
            speed = images_per_second(VerifierScorer(scorer, judge, templates, protocol), batch, args.repeats)
            here = here or speed
            print(f"{scorer:<16}{way:<24}{speed:>10.1f}{here / speed:>8.1f}", flush=True)


if __name__ == "__main__":
    main()

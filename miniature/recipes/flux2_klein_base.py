"""Train the miniature's FLUX.2 klein base: from the distilled sibling's weights on, with and without a source picture.

    python -m miniature.recipes.flux2_klein_base --start miniature/weights/flux2_klein \
        --output miniature/weights/flux2_klein_base --minutes 45 --compile

One step in three learns edits of a source (`miniature.editing`), the others learn pictures from captions
(`miniature.prompts`). Texts are dropped at times, so that classifier-free guidance with the empty prompt works; the
pipeline says that it is not distilled.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import Flux2KleinPipeline
from torch import Tensor

from miniature.prompts import sample_captioned_scene
from miniature.recipes.fitting import add_fitting_arguments, fit_for_minutes
from miniature.recipes.flux2_klein import (
    Pool,
    encode_pictures,
    flow_matching_loss,
    position_ids,
    sample_pool,
    tokenize,
)
from miniature.recipes.generator import CAPTION_DROP

EDIT_EVERY = 3


def sample_caption_pool(pipeline: Flux2KleinPipeline, number: int, rng: np.random.Generator) -> Pool:
    """Draw and encode fresh pictures with their captions."""
    parts: list[tuple[Tensor, ...]] = []
    for start in range(0, number, 64):
        drawn = [sample_captioned_scene(rng) for _ in range(min(64, number - start))]
        pictures = np.stack([item.scene.render() for item in drawn])
        tokens = encode_pictures(pipeline, pictures)
        ids = tokenize(pipeline, [item.metadata["prompt"] for item in drawn])
        # All tokens weigh the same. Were those with objects to weigh more, the model would learn a distribution with
        # more objects than the captions say; edits, whose results are fixed, do not suffer from such weights.
        parts.append((tokens, torch.ones(tokens.shape[:2]), *ids))
    return Pool(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("miniature/weights/flux2_klein_base"))
    parser.add_argument("--edits", type=int, default=20_000)
    parser.add_argument("--scenes", type=int, default=30_000)
    parser.add_argument("--edit-batch", type=int, default=32)
    parser.add_argument("--scene-batch", type=int, default=48)
    add_fitting_arguments(parser, minutes=45, learning_rate=8e-4)
    parser.set_defaults(start=Path("miniature/weights/flux2_klein"))
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)
    rng = np.random.default_rng(args.seed)
    pipeline = Flux2KleinPipeline.from_pretrained(args.start, dtype=torch.float32)
    pipeline.register_to_config(is_distilled=False)
    edits, edit_ids = sample_pool(pipeline, args.edits, rng), position_ids(pipeline)
    scenes, scene_ids = sample_caption_pool(pipeline, args.scenes, rng), position_ids(pipeline, num_sources=0)
    print(f"encoded {len(edits.targets)} edits and {len(scenes.targets)} scenes", flush=True)
    if args.compile:
        pipeline.transformer.compile(dynamic=False)

    def loss_of(step: int) -> Tensor:
        edit = step % EDIT_EVERY == 0
        pool, ids, batch = (edits, edit_ids, args.edit_batch) if edit else (scenes, scene_ids, args.scene_batch)
        chosen = torch.from_numpy(rng.integers(0, len(pool.targets), batch))
        return flow_matching_loss(pipeline, pool, chosen, ids, CAPTION_DROP)

    fit_for_minutes(
        pipeline,
        [pipeline.transformer, pipeline.text_encoder],
        loss_of,
        output=args.output,
        minutes=args.minutes,
        learning_rate=args.learning_rate,
    )


if __name__ == "__main__":
    main()

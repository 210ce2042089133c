"""Train the miniature's Show-o on the world by mask-and-predict: the cold start for preferences and judges.

    python -m miniature.recipes.showo --vq-model miniature/weights/showo/vq_model --output miniature/weights/showo

A whole `ShowoPipeline` comes out: the given MAGVITv2, a tokenizer that knows the world's words, and a small Phi over
both vocabularies. Sequences, masks and labels are made by the generator's own code. The loss is Show-o's: cross-entropy
over the whole vocabulary, at masked image tokens and at the image's two marks.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from generators.showo.attention_mask import text_to_image_mask
from generators.showo.magvit import MAGVITv2
from generators.showo.picture_codes import encode_pictures
from generators.showo.pipeline import ShowoPipeline
from generators.showo.prompting import IGNORED
from generators.showo.training_inputs import draw_masks, mask_images
from generators.showo.transformer import Showo
from generators.showo.vocabulary import MARKS
from generators.text_to_image import TextToImage
from miniature.glyphs import CLASSES
from miniature.phi_tokenizer import SHOWO_MAX_LENGTH, build_phi_tokenizer
from miniature.prompts import counting_metadata, sample_captioned_scene
from miniature.recipes.counted_objects import exactly_counted
from miniature.recipes.fitting import add_fitting_arguments, fit_for_minutes
from miniature.recipes.generator import CAPTION_DROP
from miniature.world import IMAGE_SIDE

HEAD_WIDTH = 32
NUM_STEPS, GUIDANCE_SCALE = 12, 1.75  # that the model is drawn with unless told otherwise
HELD_OUT_SEED = 10**9
COUNTS = (1, 2, 3, 4)


def build_pipeline(vq_model: MAGVITv2, heads: int, layers: int) -> ShowoPipeline:
    tokenizer, width = build_phi_tokenizer(), heads * HEAD_WIDTH
    num_tokens = (IMAGE_SIDE // vq_model.token_pixels) ** 2
    transformer = Showo(
        vocab_size=len(tokenizer) + len(MARKS) + vq_model.codebook_size + 1,
        llm_vocab_size=len(tokenizer),
        codebook_size=vq_model.codebook_size,
        num_vq_tokens=num_tokens,
        llm_config={
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "max_position_embeddings": SHOWO_MAX_LENGTH + num_tokens + 3,
        },
    )
    return ShowoPipeline(transformer, vq_model, tokenizer, SHOWO_MAX_LENGTH, NUM_STEPS, GUIDANCE_SCALE)


def encode_scenes(pipeline: ShowoPipeline, number: int, rng: np.random.Generator) -> tuple[Tensor, list[str]]:
    """Codes (number, tokens) int64 of fresh scenes, and their captions."""
    codes: list[Tensor] = []
    captions: list[str] = []
    for start in range(0, number, 64):
        drawn = [sample_captioned_scene(rng) for _ in range(min(64, number - start))]
        codes.append(encode_pictures(pipeline.vq_model, [item.scene.render() for item in drawn]))
        captions += [item.metadata["prompt"] for item in drawn]
    return torch.cat(codes), captions


def masked_token_loss(pipeline: ShowoPipeline, codes: Tensor, captions: Sequence[str]) -> Tensor:
    """Mean cross-entropy of what was hidden, and of soi and eoi; a tenth of the captions are left out."""
    layout, vocabulary = pipeline.layout, pipeline.transformer.vocabulary
    images = mask_images(codes, draw_masks(*codes.shape), vocabulary)
    dropped = torch.rand(len(codes)) < CAPTION_DROP
    ids, labels = layout.training_sequences(captions, images.ids, images.labels, dropped)
    # for this few tokens plain matrix products are faster on a CPU than flash attention
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        logits = pipeline.transformer(ids, text_to_image_mask(ids, vocabulary))
    drawn = slice(layout.prefix_length, None)
    return F.cross_entropy(logits[:, drawn].flatten(0, 1), labels[:, drawn].flatten(), ignore_index=IGNORED)


def counting_quality(pipeline: ShowoPipeline, per_prompt: int, **settings: float) -> dict[int, float]:
    """Share of pictures with exactly the wanted number of objects, by that number, on seeds that no training saw."""
    model = TextToImage(pipeline, dict(settings))
    tasks = [counting_metadata(name, count) for count in COUNTS for name in CLASSES for _ in range(per_prompt)]
    pictures = []
    for start in range(0, len(tasks), 48):
        part = [task["prompt"] for task in tasks[start : start + 48]]
        images = model.generate(part, [HELD_OUT_SEED + start + index for index in range(len(part))])
        pictures += [np.asarray(image) for image in images]
    exact = exactly_counted(pictures, tasks).reshape(len(COUNTS), -1).mean(1)
    return dict(zip(COUNTS, exact.tolist(), strict=True))


def report_quality(folder: Path, per_prompt: int) -> None:
    """Print the quality of what was saved, as it was saved."""
    pipeline = ShowoPipeline.from_pretrained(folder)
    for scale in (0.0, GUIDANCE_SCALE, 2 * GUIDANCE_SCALE):
        shares = counting_quality(pipeline, per_prompt, guidance_scale=scale)
        exact = {count: round(share, 3) for count, share in shares.items()}
        print(f"held-out exact counts, guidance {scale}: {np.mean(list(shares.values())):.3f} {exact}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vq-model", type=Path, default=Path("miniature/weights/showo/vq_model"))
    parser.add_argument("--output", type=Path, default=Path("miniature/weights/showo"))
    parser.add_argument("--scenes", type=int, default=40_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--per-prompt", type=int, default=8, help="held-out pictures of each of 24 counting prompts")
    add_fitting_arguments(parser, minutes=60, learning_rate=1.2e-3)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)
    rng = np.random.default_rng(args.seed)
    if args.start:
        pipeline = ShowoPipeline.from_pretrained(args.start)
    else:
        pipeline = build_pipeline(MAGVITv2.from_pretrained(args.vq_model), args.heads, args.layers)
    codes, captions = encode_scenes(pipeline, args.scenes, rng)
    print(f"encoded {len(codes)} scenes into {len(codes.unique())} different codes", flush=True)
    if args.compile:
        pipeline.transformer.compile()

    def loss_of(step: int) -> Tensor:
        chosen = rng.integers(0, len(codes), args.batch)
        return masked_token_loss(pipeline, codes[chosen], [captions[index] for index in chosen])

    fit_for_minutes(
        pipeline,
        [pipeline.transformer],
        loss_of,
        output=args.output,
        minutes=args.minutes,
        learning_rate=args.learning_rate,
    )
    report_quality(args.output, args.per_prompt)


if __name__ == "__main__":
    main()

"""A tiny SD3-class pipeline and a tiny Show-o with random weights, for tests that need no picture to mean anything."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from generators.loading import load_trainable
from generators.sd3 import SD3Generator
from generators.showo.trainable import ShowoGenerator
from miniature.phi_tokenizer import SHOWO_MAX_LENGTH
from miniature.recipes import showo, showo_tokenizer
from miniature.recipes.generator import build_pipeline


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the pipeline, in the hub's layout."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0,
        mid_block_add_attention=False,
    )
    folder = tmp_path_factory.mktemp("tiny") / "sd3"
    build_pipeline(vae, width=64, num_layers=2, patch_size=2).save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_generator(tiny_model: Path) -> SD3Generator:
    return SD3Generator.from_pretrained(str(tiny_model), height=64, width=64, max_sequence_length=0)


@pytest.fixture(scope="session")
def tiny_showo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an untrained Show-o at the miniature's size of pictures, 64 x 64."""
    torch.manual_seed(0)
    vq_model = showo_tokenizer.build_model(bits=6, width=8).eval()
    folder = tmp_path_factory.mktemp("tiny") / "showo"
    showo.build_pipeline(vq_model, heads=1, layers=2).save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_masked(tiny_showo: Path) -> ShowoGenerator:
    return load_trainable(str(tiny_showo), ShowoGenerator, height=64, width=64, max_sequence_length=SHOWO_MAX_LENGTH)

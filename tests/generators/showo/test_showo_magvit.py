"""MAGVITv2 computes the reference's numbers, and has the published names and shapes."""

import json
from pathlib import Path

import pytest
import torch
from file_size import safetensors_bytes
from safetensors import safe_open
from tiny_showo import build_vq_model
from torch import Tensor

from assay.errors import ConfigError
from generators.showo.magvit import MAGVITv2

GOLDEN = Path(__file__).parents[2] / "golden" / "showo_magvitv2_tiny.safetensors"


@pytest.fixture(scope="module")
def published() -> MAGVITv2:
    with torch.device("meta"):
        return MAGVITv2()


@pytest.fixture(scope="module")
def golden() -> tuple[MAGVITv2, dict[str, Tensor]]:
    with safe_open(GOLDEN, "pt") as file:
        encoder, decoder = (json.loads(file.metadata()[name]) for name in ("encoder", "decoder"))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a file is no dictionary
    model = MAGVITv2(
        ch=encoder["ch"],
        encoder_ch_mult=encoder["ch_mult"],
        encoder_num_res_blocks=encoder["num_res_blocks"],
        decoder_ch_mult=decoder["ch_mult"],
        decoder_num_res_blocks=decoder["num_res_blocks"],
    )
    weights = {name.removeprefix("weights."): value for name, value in tensors.items() if name.startswith("weights.")}
    model.load_state_dict(weights)
    return model.eval(), tensors


def test_the_encoder_gives_the_reference_numbers(golden: tuple[MAGVITv2, dict[str, Tensor]]) -> None:
    model, tensors = golden
    with torch.no_grad():
        torch.testing.assert_close(model.encoder(tensors["input"]), tensors["encoder_output"], atol=1e-5, rtol=1e-5)


def test_codes_are_the_reference_codes(golden: tuple[MAGVITv2, dict[str, Tensor]]) -> None:
    model, tensors = golden
    assert torch.equal(model.get_code(tensors["input"]), tensors["indices"])


def test_the_decoder_gives_the_reference_picture(golden: tuple[MAGVITv2, dict[str, Tensor]]) -> None:
    model, tensors = golden
    torch.testing.assert_close(model.decode_code(tensors["indices"]), tensors["decoded"], atol=1e-4, rtol=1e-4)


def test_the_tables_of_codes_are_the_reference_tables(golden: tuple[MAGVITv2, dict[str, Tensor]]) -> None:
    fresh, tensors = MAGVITv2(ch=32, encoder_num_res_blocks=[1] * 5, decoder_num_res_blocks=[1] * 5), golden[1]
    assert torch.equal(fresh.quantize.embedding, tensors["weights.quantize.embedding"])
    assert torch.equal(fresh.quantize.power_vals, tensors["weights.quantize.power_vals"])


def test_counts_are_the_published_ones(published: MAGVITv2) -> None:
    assert len(published.state_dict()) == 382
    parts = [sum(p.numel() for p in part.parameters()) for part in (published.encoder, published.decoder, published)]
    assert parts == [55_439_171, 39_947_833, 95_387_004]
    assert safetensors_bytes(published.state_dict()) == 382_013_656


def test_names_are_the_published_ones(published: MAGVITv2) -> None:
    tensors = published.state_dict()
    shortcuts = {name: tuple(t.shape[:2]) for name, t in tensors.items() if name.endswith("nin_shortcut.weight")}
    assert shortcuts == {
        "encoder.down.1.block.0.nin_shortcut.weight": (256, 128),
        "encoder.down.3.block.0.nin_shortcut.weight": (512, 256),
        "decoder.up.3.block.0.nin_shortcut.weight": (256, 512),
        "decoder.up.1.block.0.nin_shortcut.weight": (128, 256),
    }
    blocks = [
        len({name.split(".")[4] for name in tensors if name.startswith(f"encoder.down.{k}.block")}) for k in range(5)
    ]
    assert blocks == [4, 3, 4, 3, 4]
    assert "encoder.down.3.downsample.conv.weight" in tensors
    assert "encoder.down.4.downsample.conv.weight" not in tensors
    assert "decoder.up.1.upsample.conv.weight" in tensors
    assert "decoder.up.0.upsample.conv.weight" not in tensors
    assert {name for name in tensors if "attn" in name and "weight" in name and "encoder" in name} == {
        f"encoder.mid.attn_1.{part}.weight" for part in ("norm", "q", "k", "v", "proj_out")
    }


def test_grids_that_are_not_square_keep_rows_and_columns_apart() -> None:
    model = build_vq_model()
    pixels = torch.rand(2, 3, 8, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codes = model.get_code(pixels)
    assert codes.shape == (2, 12)
    decoded = model.decode_code(codes, (2, 6))
    assert decoded.shape == (2, 3, 8, 24)
    with torch.no_grad():
        signs = torch.where(model.encoder(pixels) > 0, 1.0, -1.0)
        torch.testing.assert_close(decoded, model.decoder(signs))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MAGVITv2(decoder_ch_mult=(1, 2)), r"decoder_ch_mult is \[1, 2\]; allowed: as many numbers as"),
        (lambda: MAGVITv2(ch=48), r"ch is 48; allowed: multiples of num_groups = 32"),
        (lambda: build_vq_model().get_code(torch.zeros(1, 3, 16, 18)), r"width is 18; allowed: multiples of 4"),
        (
            lambda: build_vq_model().decode_code(torch.zeros(1, 12, dtype=torch.int64), (3, 3)),
            r"shape is \(3, 3\); allowed: one that 12 codes fill",
        ),
        (
            lambda: build_vq_model().decode_code(torch.zeros(1, 12, dtype=torch.int64)),
            r"shape is \(3, 3\); allowed: one that 12 codes fill",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(call: object, message: str) -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        call()  # type: ignore[operator]

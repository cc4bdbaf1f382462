"""MXFP4: what the bits mean, and that packing for the tensor cores loses none."""

import pytest
import torch
from torch import Tensor

from steelyard_kernels.cuda.launch import moe_launch
from steelyard_kernels.cuda.mxfp4 import PackedMxfp4, gated_order, pack
from steelyard_kernels.interface import ExpertWeights, Mxfp4
from steelyard_kernels.reference.experts import ReferenceExperts, dequantize

EXPERTS, ROWS, COLUMNS = 3, 32, 128


@pytest.fixture
def weight() -> Mxfp4:
    torch.manual_seed(0)
    return Mxfp4(
        torch.randint(0, 256, (EXPERTS, ROWS, COLUMNS // 32, 16), dtype=torch.uint8),
        torch.randint(100, 129, (EXPERTS, ROWS, COLUMNS // 32), dtype=torch.uint8),
    )


def test_every_code_has_its_value() -> None:
    """Two codes a byte, the low half first; the exponent is for 32 values."""
    blocks = torch.arange(16, dtype=torch.uint8).view(1, 1, 1, 16) * 17
    scales = torch.tensor([[[128]]], dtype=torch.uint8)
    values = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    expected = [2 * value for sign in (1, -1) for value in (sign * v for v in values)]

    computed = dequantize(Mxfp4(blocks, scales), torch.float32).flatten()

    assert computed[::2].tolist() == expected
    assert computed[1::2].tolist() == expected


def test_packed_weights_are_the_same_numbers(weight: Mxfp4) -> None:
    """Unpacking as the kernel does, bit by bit, gives back every value exactly."""
    assert torch.equal(unpacked(pack(weight)), dequantize(weight, torch.bfloat16))


def test_gates_and_ups_share_a_tile(weight: Mxfp4) -> None:
    """The first eight rows of a tile are gates, the next eight their ups."""
    order = gated_order(ROWS, torch.device("cpu"))

    assert order[:16].tolist() == [0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15]
    expected = dequantize(weight, torch.bfloat16)[:, order]
    assert torch.equal(unpacked(pack(weight, order)), expected)


@pytest.mark.parametrize(
    ("rows", "columns", "scale", "message"),
    [
        (24, 64, 120, "multiples of 16 rows and 64 columns, got 24 x 64"),
        (16, 96, 120, "got 16 x 96"),
        (16, 64, 129, "at most 128"),
    ],
)
def test_what_cannot_be_packed_is_refused(
    rows: int, columns: int, scale: int, message: str
) -> None:
    """Sizes that do not fill tiles, and exponents that bfloat16 does not have."""
    blocks = torch.zeros((1, rows, columns // 32, 16), dtype=torch.uint8)
    scales = torch.full((1, rows, columns // 32), scale, dtype=torch.uint8)

    with pytest.raises(ValueError, match=message):
        pack(Mxfp4(blocks, scales))


def test_a_mixture_is_the_weighted_sum_of_its_experts() -> None:
    """Each token goes through its own two experts, weighted by the softmax over their logits."""
    torch.manual_seed(1)

    def random(rows: int, columns: int) -> Mxfp4:
        return Mxfp4(
            torch.randint(0, 256, (4, rows, columns // 32, 16), dtype=torch.uint8),
            torch.randint(118, 124, (4, rows, columns // 32), dtype=torch.uint8),
        )

    weights = ExpertWeights(
        random(2 * 64, 32), torch.randn(4, 128), random(32, 64), torch.randn(4, 32), top=2
    )
    x, logits = torch.randn(5, 32), torch.randn(5, 4)
    gate_up, down = (dequantize(w, torch.float32) for w in (weights.gate_up, weights.down))
    expected = torch.zeros(5, 32)
    for token in range(5):
        best = logits[token].argsort(descending=True)[:2]
        for share, expert in zip(logits[token][best].softmax(0), best, strict=True):
            wide = gate_up[expert] @ x[token] + weights.gate_up_bias[expert]
            gate, up = wide[::2].clamp(max=7.0), wide[1::2].clamp(-7.0, 7.0)
            inner = (up + 1) * gate * torch.sigmoid(1.702 * gate)
            expected[token] += share * (down[expert] @ inner + weights.down_bias[expert])

    computed = ReferenceExperts(weights)(x, logits)

    assert (computed - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("tokens", [1, 2, 8, 9, 33, 64, 200, 512, 2048])
@pytest.mark.parametrize("fullest", [False, True])
def test_the_work_list_is_long_enough(tokens: int, fullest: bool) -> None:
    """However tokens spread over experts, all in four or evenly over all."""
    launch = moe_launch(tokens, 32, 4)
    counts = [tokens] * 4 if fullest else [-(-tokens * 4 // 32)] * 32

    items = sum(-(-count // launch.tile) for count in counts if count)

    assert items <= launch.max_items or (not fullest and tokens * 4 < 32)


def unpacked(packed: PackedMxfp4) -> Tensor:
    """Unpack in the steps of csrc/cuda/mxfp4.cuh."""
    words = packed.words.to(torch.int64) & 0xFFFFFFFF
    mask = 0x81C081C0
    pairs = {
        (0, 0): words & mask,
        (1, 0): words << 3 & mask,
        (0, 1): words << 6 & mask,
        (1, 1): words << 1 & 0x80008000 | words >> 3 & 0x01800180 | words >> 7 & 0x00400040,
    }
    experts, row_tiles, column_tiles = words.shape[:3]
    out = torch.empty(experts, row_tiles, 2, 8, column_tiles, 4, 4, 2, 2, dtype=torch.bfloat16)
    for (row_half, column_half), pair in pairs.items():
        lanes = pair.view(experts, row_tiles, column_tiles, 8, 4, 4).transpose(2, 3)
        for value in range(2):
            bits = lanes >> 16 * value & 0xFFFF
            signed = torch.where(bits >= 1 << 15, bits - (1 << 16), bits).to(torch.int16)
            out[:, :, row_half, ..., column_half, value] = signed.view(torch.bfloat16)
    # Multiplied in float64: not every CPU keeps bfloat16's subnormals.
    powers = torch.pow(
        2.0, packed.scales.to(torch.float64) - 127
    )  # (E, row tile, col tile, 8, 2, 2)
    powers = powers.permute(0, 1, 5, 3, 2, 4).repeat_interleave(2, dim=-1)
    values = as_numbers(out) * powers[..., None, None, None]
    return values.to(torch.bfloat16).reshape(experts, packed.rows, packed.columns)


def as_numbers(values: Tensor) -> Tensor:
    """Return bfloat16 as float64, subnormals included."""
    bits = values.view(torch.int16).to(torch.int64)
    exponent, mantissa = bits >> 7 & 255, bits & 127
    size = torch.where(exponent > 0, 128 + mantissa, mantissa).double()
    size = size * torch.pow(2.0, exponent.clamp(min=1).double() - 127 - 7)
    return torch.where(bits < 0, -size, size)

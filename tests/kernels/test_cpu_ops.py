"""The C++ kernels compute what the reference does."""

import pytest
import torch

from steelyard_kernels.cpu.ops import CpuOps
from steelyard_kernels.reference.ops import ReferenceOps

# Largest absolute difference in float32, for inputs of size 1: only the order of sums differs.
TOLERANCE = {
    "linear": 2e-4,
    "rms_norm": 2e-6,
    "add_rms_norm": 2e-6,
    "silu_and_mul": 2e-6,
    "rope_write_kv": 1e-6,
}

REFERENCE = ReferenceOps()
WIDTHS = (64, 576, 50, 7)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def difference(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).abs().max())


@pytest.mark.parametrize("rows", [1, 2, 5, 11, 12, 13, 16, 25, 64])
@pytest.mark.parametrize(("inputs", "outputs"), [(576, 960), (64, 97), (7, 5), (1536, 32)])
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
def test_linear(cpu: CpuOps, rows: int, inputs: int, outputs: int, bias: bool) -> None:
    """Any number of rows and outputs, also those that fill no panel."""
    x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    b = torch.randn(outputs) if bias else None

    computed = cpu.linear(weight, b)(x)

    assert difference(computed, REFERENCE.linear(weight, b)(x)) < TOLERANCE["linear"]


@pytest.mark.parametrize("rows", range(1, 30))
def test_a_row_does_not_depend_on_the_others(cpu: CpuOps, rows: int) -> None:
    """A token's projection is the same to the last bit in any batch."""
    linear = cpu.linear(torch.randn(70, 100))
    x = torch.randn(30, 100)

    assert torch.equal(linear(x[:rows]), linear(x)[:rows])


@pytest.mark.parametrize("width", WIDTHS)
def test_rms_norm(cpu: CpuOps, width: int) -> None:
    """Any width, also one that fills no vector."""
    x, weight = torch.randn(9, width), torch.randn(width)

    computed = cpu.rms_norm(x, weight, 1e-5)

    assert difference(computed, REFERENCE.rms_norm(x, weight, 1e-5)) < TOLERANCE["rms_norm"]


@pytest.mark.parametrize("width", WIDTHS)
def test_add_rms_norm(cpu: CpuOps, width: int) -> None:
    """The sum is left in the residual and its norm returned."""
    x, residual, weight = torch.randn(9, width), torch.randn(9, width), torch.randn(width)
    expected_residual = residual.clone()
    expected = REFERENCE.add_rms_norm(x, expected_residual, weight, 1e-5)

    computed = cpu.add_rms_norm(x, residual, weight, 1e-5)

    assert torch.equal(residual, expected_residual)
    assert difference(computed, expected) < TOLERANCE["add_rms_norm"]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("size", [1.0, 40.0], ids=["ordinary", "saturating"])
def test_silu_and_mul(cpu: CpuOps, width: int, size: float) -> None:
    """Gates far from zero saturate instead of overflowing."""
    gate_up = torch.randn(9, 2 * width)
    gate_up[:, :width] *= size

    computed = cpu.silu_and_mul(gate_up)

    expected = REFERENCE.silu_and_mul(gate_up)
    assert difference(computed, expected) < TOLERANCE["silu_and_mul"] * size * 4


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(9, 3, 64), (4, 4, 16), (8, 1, 128)])
def test_rope_write_kv(cpu: CpuOps, heads: int, kv_heads: int, head_dim: int) -> None:
    """Queries come back rotated, keys and values are in their slots, other slots as before."""
    tokens, block_tokens = 11, 4
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * head_dim)
    angles = torch.randn(50, head_dim // 2)
    table = torch.cat((angles.cos(), angles.sin()), dim=-1)
    positions, slots = torch.randint(50, (tokens,)), torch.randperm(8 * block_tokens)[:tokens]
    expected_kv = torch.randn(8, 3, 2, kv_heads, block_tokens, head_dim)
    kv = expected_kv.clone()
    expected = REFERENCE.rope_write_kv(qkv, table, positions, slots, expected_kv[:, 1])

    computed = cpu.rope_write_kv(qkv, table, positions, slots, kv[:, 1])

    assert difference(computed, expected) < TOLERANCE["rope_write_kv"]
    assert difference(kv, expected_kv) < TOLERANCE["rope_write_kv"]


def test_another_dtype_is_refused(cpu: CpuOps) -> None:
    """The kernels take float32 and say so."""
    with pytest.raises(ValueError, match=r"take float32, got torch\.bfloat16"):
        cpu.silu_and_mul(torch.zeros(2, 4, dtype=torch.bfloat16))

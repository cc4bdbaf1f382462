"""The small ops on a GPU equal the reference; written places are written, others are not."""

import pytest
import torch
from torch import Tensor

from steelyard_kernels.cuda.ops import CudaOps
from steelyard_kernels.reference.ops import ReferenceOps

pytestmark = pytest.mark.gpu

REFERENCE = ReferenceOps()
# bf16 rounds to 2^-9 of a value; the order of sums may move one rounding.
ROUNDING = 2**-8


def close(computed: Tensor, expected: Tensor) -> bool:
    return torch.allclose(computed.float(), expected.float(), rtol=2 * ROUNDING, atol=ROUNDING)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.bfloat16, device="cuda")


@pytest.mark.parametrize("rows", [1, 3, 300])
@pytest.mark.parametrize("width", [8, 64, 576, 2880, 4096, 8192, 32768])
def test_rms_norm(cuda_ops: CudaOps, rows: int, width: int) -> None:
    """One row a block, whatever its width."""
    torch.manual_seed(width)
    x, weight = random(rows, width), random(width)

    assert close(cuda_ops.rms_norm(x, weight, 1e-5), REFERENCE.rms_norm(x, weight, 1e-5))


@pytest.mark.parametrize("rows", [1, 3, 300])
@pytest.mark.parametrize("width", [64, 2880, 4096])
def test_add_rms_norm(cuda_ops: CudaOps, rows: int, width: int) -> None:
    """The sum stays in the residual, to the last bit."""
    torch.manual_seed(width)
    x, residual, weight = random(rows, width), random(rows, width), random(width)
    sums = residual.clone()

    normed = cuda_ops.add_rms_norm(x, sums, weight, 1e-5)

    expected = residual.clone()
    assert close(normed, REFERENCE.add_rms_norm(x, expected, weight, 1e-5))
    assert torch.equal(sums, expected)


@pytest.mark.parametrize(("rows", "width"), [(1, 8), (5, 1536), (700, 14336)])
def test_silu_and_mul(cuda_ops: CudaOps, rows: int, width: int) -> None:
    """Large gates neither overflow nor become NaN."""
    torch.manual_seed(rows)
    gate_up = random(rows, 2 * width) * 30

    assert close(cuda_ops.silu_and_mul(gate_up), REFERENCE.silu_and_mul(gate_up))


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(32, 8, 128), (9, 3, 64), (64, 8, 64), (2, 2, 128)]
)
def test_rope_write_kv(cuda_ops: CudaOps, heads: int, kv_heads: int, head_dim: int) -> None:
    """Keys and values land in their slots and nowhere else."""
    torch.manual_seed(heads)
    tokens, blocks = 37, 9
    qkv = random(tokens, (heads + 2 * kv_heads) * head_dim)
    table = torch.randn(500, head_dim, device="cuda")
    positions = torch.randint(0, 500, (tokens,), device="cuda")
    slots = torch.randperm(blocks * 16, device="cuda")[:tokens]
    pool = random(blocks, 3, 2, kv_heads, 16, head_dim)
    expected_pool = pool.clone()

    query = cuda_ops.rope_write_kv(qkv, table, positions, slots, pool[:, 1])

    expected = REFERENCE.rope_write_kv(qkv, table, positions, slots, expected_pool[:, 1])
    assert close(query, expected)
    assert close(pool, expected_pool)


def test_padding_writes_nothing(cuda_ops: CudaOps) -> None:
    """A negative slot is no place."""
    pool = torch.zeros((4, 2, 8, 16, 128), dtype=torch.bfloat16, device="cuda")
    slots = torch.full((3,), -1, device="cuda")
    zeros = torch.zeros(3, dtype=torch.int64, device="cuda")

    cuda_ops.rope_write_kv(random(3, 48 * 128), torch.ones(1, 128).cuda(), zeros, slots, pool)

    assert not pool.any()

"""The mixture of experts on a GPU equals the reference in float32, for few and many tokens."""

import pytest
import torch
from torch import Tensor

from steelyard_kernels.cuda import experts as cuda_experts
from steelyard_kernels.cuda.launch import MoeLaunch
from steelyard_kernels.cuda.ops import CudaOps
from steelyard_kernels.interface import ExpertWeights, Mxfp4
from steelyard_kernels.reference.experts import ReferenceExperts, dequantize

pytestmark = pytest.mark.gpu

TOLERANCE = 1e-2
EXPERTS, TOP = 8, 4


def weights_of(hidden: int, inner: int, dtype: torch.dtype = torch.bfloat16) -> ExpertWeights:
    torch.manual_seed(hidden + inner)

    def random(rows: int, columns: int) -> Mxfp4:
        return Mxfp4(
            torch.randint(
                0, 256, (EXPERTS, rows, columns // 32, 16), dtype=torch.uint8, device="cuda"
            ),
            torch.randint(
                116, 121, (EXPERTS, rows, columns // 32), dtype=torch.uint8, device="cuda"
            ),
        )

    return ExpertWeights(
        random(2 * inner, hidden),
        torch.randn(EXPERTS, 2 * inner, device="cuda").bfloat16().to(dtype),
        random(hidden, inner),
        torch.randn(EXPERTS, hidden, device="cuda").bfloat16().to(dtype),
        TOP,
    )


def error(computed: Tensor, expected: Tensor) -> float:
    return float((computed.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("tokens", [1, 2, 5, 8, 9, 16, 33, 64, 130, 257, 1024, 2048, 2100])
@pytest.mark.parametrize(("hidden", "inner"), [(64, 64), (192, 320), (2880, 2880)])
def test_it_equals_the_reference(cuda_ops: CudaOps, tokens: int, hidden: int, inner: int) -> None:
    """All ways to run it, also where the last warp has one row tile only."""
    mixture = cuda_ops.experts(weights_of(hidden, inner))
    reference = ReferenceExperts(weights_of(hidden, inner, torch.float32))
    x = torch.randn(tokens, hidden, device="cuda").bfloat16()
    logits = torch.randn(tokens, EXPERTS, device="cuda").bfloat16()

    computed = mixture(x, logits)

    assert error(computed, reference(x.float(), logits.float())) < TOLERANCE


@pytest.mark.parametrize("tile", [8, 16, 32, 64])
@pytest.mark.parametrize("split", [False, True])
def test_all_tokens_on_the_same_experts(
    cuda_ops: CudaOps, monkeypatch: pytest.MonkeyPatch, tile: int, split: bool
) -> None:
    """The longest work list: every expert in use has several items."""
    if split and tile > 16:
        pytest.skip("a split is for few tokens")
    launch = MoeLaunch(tile, split, EXPERTS + 100 * TOP // tile)
    monkeypatch.setattr(cuda_experts, "moe_launch", lambda *_: launch)
    mixture = cuda_ops.experts(weights_of(192, 320))
    reference = ReferenceExperts(weights_of(192, 320, torch.float32))
    x = torch.randn(100, 192, device="cuda").bfloat16()
    logits = torch.randn(100, EXPERTS, device="cuda").bfloat16()
    logits[:, ::2] += 10

    assert error(mixture(x, logits), reference(x.float(), logits.float())) < TOLERANCE


def test_unpacked_weights_are_exact(cuda_ops: CudaOps) -> None:
    """The rows for the library's product are the numbers of the checkpoint."""
    weights = weights_of(192, 320)
    mixture = cuda_ops.experts(weights)

    unpacked = mixture._unpacked(mixture.down, torch.bfloat16)

    assert torch.equal(unpacked, dequantize(weights.down, torch.bfloat16))

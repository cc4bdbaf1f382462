"""ggml's encodings to float32, bit for bit as `gguf.quants` does it.

The encodings of common small models run as whole-tensor torch operations (ten times faster);
the others go through the `gguf` package.
"""

import torch
from torch import Tensor

from steelyard_runtime.checkpoint_files.gguf_header import TensorEncoding


def dequantize(raw: Tensor, encoding: TensorEncoding) -> Tensor:
    """Return the values of `raw`, a flat uint8 tensor of whole blocks, as a flat tensor.

    The result is float32, or the stored dtype where that is a float format.
    """
    match encoding.name:
        case "F32":
            return raw.view(torch.float32)
        case "F16":
            return raw.view(torch.float16)
        case "BF16":
            return raw.view(torch.bfloat16)
        case "Q4_0":
            blocks = raw.view(-1, encoding.block_bytes)
            return (_nibbles(blocks[:, 2:]).sub_(8)).mul_(_halves(blocks, 0)).view(-1)
        case "Q4_1":
            blocks = raw.view(-1, encoding.block_bytes)
            scaled = _nibbles(blocks[:, 4:]).mul_(_halves(blocks, 0))
            return scaled.add_(_halves(blocks, 1)).view(-1)
        case "Q8_0":
            blocks = raw.view(-1, encoding.block_bytes)
            return blocks[:, 2:].view(torch.int8).float().mul_(_halves(blocks, 0)).view(-1)
    return _by_gguf(raw, encoding)


def _halves(blocks: Tensor, column: int) -> Tensor:
    """Return one float16 field of each block as (blocks, 1) float32."""
    return blocks.view(torch.float16)[:, column : column + 1].float()


def _nibbles(packed: Tensor) -> Tensor:
    """Return (blocks, 32) float32 of (blocks, 16) bytes: low nibbles, then high ones."""
    values = torch.empty((packed.shape[0], 32), dtype=torch.float32)
    values[:, :16] = packed & 15
    values[:, 16:] = packed >> 4
    return values


def _by_gguf(raw: Tensor, encoding: TensorEncoding) -> Tensor:
    import gguf.quants

    kind = gguf.GGMLQuantizationType[encoding.name]
    # One row a block: gguf's loop goes over groups of rows.
    rows = raw.numpy().reshape(-1, encoding.block_bytes)
    return torch.from_numpy(gguf.quants.dequantize(rows, kind).reshape(-1))

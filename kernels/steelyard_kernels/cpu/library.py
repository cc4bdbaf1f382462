"""The C interface of `csrc/cpu/abi.cpp`. ctypes releases the GIL during a call."""

import ctypes
import os
from ctypes import POINTER, c_double, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

from steelyard_kernels.compiled import PREBUILT_VARIABLE
from steelyard_kernels.cpu.build import cached_library
from steelyard_kernels.cpu.prebuilt import prebuilt_library

# The template instances of attention_phase() in phases.h.
HEAD_DIMS = (16, 32, 64, 96, 128, 256)
MAX_BLOCK_TOKENS = 256
MAX_GROUP = 16


class Layer(ctypes.Structure):
    """`SteelyardLayer`: pointers to one layer's weights."""

    _fields_ = [
        (name, c_void_p)
        for name in (
            "input_norm",
            "qkv",
            "qkv_bias",
            "output",
            "output_bias",
            "post_attention_norm",
            "gate_up",
            "gate_up_bias",
            "down",
            "down_bias",
        )
    ]


_SIZES = (
    "tokens",
    "rows",
    "layers",
    "hidden",
    "heads",
    "kv_heads",
    "head_dim",
    "intermediate",
    "vocab",
    "block_tokens",
    "block_stride",
    "layer_stride",
    "value_stride",
    "sequences",
    "table_width",
)
_POINTERS = (
    "token_ids",
    "positions",
    "slots",
    "query_starts",
    "context_lens",
    "block_tables",
    "logit_rows",
    "embedding",
    "final_norm",
    "head",
    "cos_sin",
    "kv_pool",
    "residual",
    "x",
    "y",
    "attention",
    "wide",
    "activation",
    "logits",
)


class Step(ctypes.Structure):
    """`SteelyardStep`: sizes, pointers and scratch of one forward pass."""

    _fields_ = [
        *((name, c_int64) for name in _SIZES),
        *((name, c_void_p) for name in _POINTERS),
        ("eps", c_double),
        ("scale", c_double),
    ]


_P, _N, _D, _I = c_void_p, c_int64, c_double, c_int
_SIGNATURES: dict[str, list[Any]] = {
    "steelyard_pack": [_P, _N, _N, _P, _I],
    "steelyard_linear": [_P, _N, _N, _P, _P, _P, _N, _I],
    "steelyard_rms_norm": [_P, _P, _N, _N, _D, _P, _I],
    "steelyard_add_rms_norm": [_P, _P, _P, _N, _N, _D, _P, _I],
    "steelyard_silu_and_mul": [_P, _N, _N, _P, _I],
    "steelyard_rope_write_kv": [_P, _N, _N, *[_P] * 4, *[_N] * 5, _P, _I],
    "steelyard_paged_attention": [_P, _N, _P, *[_N] * 5, *[_P] * 3, _N, _N, _D, _P, _I],
    "steelyard_llama": [POINTER(Step), POINTER(Layer), _I],
}


@cache
def load_library() -> ctypes.CDLL:
    """Build (where needed) and load the kernels.

    Raises:
        BuildError: they cannot be built here.
        OSError: the library cannot be loaded.
    """
    folder = os.environ.get(PREBUILT_VARIABLE)
    found = prebuilt_library(Path(folder)) if folder else cached_library()
    library = ctypes.CDLL(str(found))
    for name, arguments in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes = arguments
        function.restype = None
    library.steelyard_panel.restype = c_int64
    return library

"""The C interface of `csrc/cuda/abi.cu`. ctypes releases the GIL during a call."""

import ctypes
from ctypes import c_float, c_int, c_int64, c_void_p
from functools import cache
from typing import Any

import torch

from steelyard_kernels.cuda.build import find_library

_P, _N, _I, _F = c_void_p, c_int64, c_int, c_float
# The last argument of each is the stream.
_SIGNATURES: dict[str, list[Any]] = {
    "steelyard_decode_attention": [
        *(_P, _P, _N, _N, _P, _P, _N, _P, _P, _P, _P),
        *[_I] * 8,
        _F,
        _P,
    ],
    "steelyard_rms_norm": [_P, _P, _P, _P, _I, _I, _F, _P],
    "steelyard_silu_and_mul": [_P, _P, _N, _I, _P],
    "steelyard_rope_write_kv": [*[_P] * 5, _N, _N, _P, *[_I] * 5, _P],
    "steelyard_route": [*[_P] * 8, *[_I] * 5, _P],
    "steelyard_moe_product": [_P, _P, _I, _I, *[_P] * 5, *[_I] * 6, _F, _F, _P],
    "steelyard_unpack_mxfp4": [_P, _P, _I, _I, _P, _N, _P],
    "steelyard_gate_rows": [*[_P] * 5, _N, _I, _F, _F, _P],
    "steelyard_combine": [*[_P] * 6, _N, _I, _I, _P],
    "steelyard_gather_kv": [_P, _N, _N, _P, _P, _N, _P, _P, *[_I] * 5, _P],
}


class CudaLibrary:
    """The loaded kernels; `launch` runs one on torch's current stream."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._functions = {}
        for name, arguments in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes = arguments
            self._functions[name] = function
        self._error = library.steelyard_error
        self._error.restype = ctypes.c_char_p

    def launch(self, name: str, *arguments: Any) -> None:
        """Launch `steelyard_NAME`.

        Raises:
            RuntimeError: CUDA refused the launch.
        """
        stream = torch.cuda.current_stream().cuda_stream
        code = self._functions[f"steelyard_{name}"](*arguments, stream)
        if code:
            raise RuntimeError(f"the kernel {name} failed: {self._error(code).decode()}")


@cache
def load_library() -> CudaLibrary:
    """Build (where needed) and load the kernels for the current device.

    Raises:
        BuildError: they cannot be built here.
        OSError: the library cannot be loaded.
    """
    return CudaLibrary(ctypes.CDLL(str(find_library(torch.cuda.get_device_capability()))))

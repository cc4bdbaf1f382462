"""`python -m steelyard_kernels.bench [--to DIR] [--sweep-splits]`: print tables, write JSON."""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from steelyard_kernels.bench import attention, elementwise, experts
from steelyard_kernels.bench.timing import copy_bytes_per_second
from steelyard_kernels.cuda.library import load_library
from steelyard_kernels.cuda.ops import CudaOps


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure everything; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m steelyard_kernels.bench")
    parser.add_argument("--to", type=Path, default=Path("bench-results"), metavar="DIR")
    parser.add_argument("--sweep-splits", action="store_true", help="try all ways to split")
    given = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        sys.stderr.write("bench: torch finds no CUDA device\n")
        return 1
    device = torch.device("cuda")
    library = load_library()
    bandwidth = copy_bytes_per_second()
    result: dict[str, Any] = {
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": torch.cuda.get_device_name(device),
        "versions": {"torch": torch.__version__, "cuda": torch.version.cuda},
        "copy_bytes_per_second": bandwidth,
    }
    sys.stdout.write(f"{result['device']}: a copy moves {bandwidth / 1e12:.2f} TB/s\n")
    result["elementwise"] = elementwise.measure(CudaOps(library, device), bandwidth)
    _print(result["elementwise"])
    with torch.inference_mode():
        result["experts"] = experts.measure(library, bandwidth)
        _print(result["experts"])
        rows = attention.measure(library, bandwidth, sweep=given.sweep_splits)
    result["decode_attention"] = rows
    _print(rows)
    given.to.mkdir(parents=True, exist_ok=True)
    (given.to / "kernels.json").write_text(json.dumps(result, indent=2) + "\n")
    return 0


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    columns = [key for key, value in rows[0].items() if not isinstance(value, dict)]
    sys.stdout.write("  ".join(f"{name[:18]:>18}" for name in columns) + "\n")
    for row in rows:
        cells = (row[name] for name in columns)
        texts = (f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells)
        sys.stdout.write("  ".join(f"{text:>18}" for text in texts) + "\n")


if __name__ == "__main__":
    sys.exit(main())

"""Times of single kernels: many calls recorded in one CUDA graph, so that launches do not count."""

import statistics
from collections.abc import Callable

import torch

CACHE_BYTES = 256 * 1024**2  # five times the L2 of an H100: what was read is gone by the next round
REPLAYS = 7
# A graph shorter than this is measured with several replays between two events.
SHORTEST_MILLISECONDS = 1.0

Call = Callable[[int], object]


def rounds_for(num_bytes: int) -> int:
    """Return over how many sets of inputs a measurement rotates, so that none is in the cache."""
    return max(1, min(64, -(-CACHE_BYTES // max(num_bytes, 1))))


def microseconds(call: Call, rounds: int) -> float:
    """Return the median time of `call(i)` for i in 0 to `rounds` - 1, one after the other.

    Args:
        call: launches work on the i-th set of inputs.
        rounds: how many sets there are.
    """
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for index in range(min(rounds, 2)):
            call(index)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(rounds):
            call(index)
    once = _milliseconds(graph, 1)
    repeats = max(1, min(50, int(SHORTEST_MILLISECONDS / max(once, 1e-3))))
    times = [_milliseconds(graph, repeats) / repeats for _ in range(REPLAYS)]
    return statistics.median(times) * 1e3 / rounds


def copy_bytes_per_second() -> float:
    """Return what the fastest of torch's ways to copy 2 GB moves, bytes read plus bytes written."""
    source = torch.randn(1 << 30, device="cuda").to(torch.bfloat16)
    target = torch.empty_like(source)
    by_engine = microseconds(lambda _: target.copy_(source), 1)
    by_kernel = microseconds(lambda _: torch.mul(source, 1, out=target), 1)
    return 2 * source.nbytes / (min(by_engine, by_kernel) * 1e-6)


def _milliseconds(graph: torch.cuda.CUDAGraph, repeats: int) -> float:
    start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    start.record()
    for _ in range(repeats):
        graph.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))

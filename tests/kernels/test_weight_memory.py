"""Packed weights lie in large mappings, apart from each other."""

import torch

from steelyard_kernels.cpu.weight_memory import CHUNK_BYTES, WeightMemory


def test_tensors_do_not_overlap() -> None:
    """Each has its own aligned memory, also those that need a new mapping."""
    memory = WeightMemory()
    shapes = [(3, 5), (CHUNK_BYTES // 4 - 20,), (7,), (CHUNK_BYTES // 4 + 1,), (2,)]
    tensors = [memory.allocate(shape) for shape in shapes]

    for value, tensor in enumerate(tensors, start=1):
        tensor.view(-1)[[0, -1]] = float(value)

    assert [tensor.data_ptr() % 64 for tensor in tensors] == [0] * 5
    assert [float(tensor.view(-1)[-1]) for tensor in tensors] == [1, 2, 3, 4, 5]
    assert [float(tensor.view(-1)[0]) for tensor in tensors] == [1, 2, 3, 4, 5]


def test_it_outlives_its_maker() -> None:
    """A tensor keeps the mapping that it lies in."""
    tensor = WeightMemory().allocate((1000,))

    assert torch.equal(tensor.add_(1.0), torch.ones(1000))

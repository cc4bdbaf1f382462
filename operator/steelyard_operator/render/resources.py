"""Compute resources of a worker: what its container asks for, and what the engine makes of it."""

import math
from decimal import Decimal

from steelyard_operator.api.roles import RoleSpec

# Resources of which tensorParallel says how many; a slice of one (MIG) stays as it is written.
ACCELERATORS = ("nvidia.com/gpu", "amd.com/gpu")
CUDA_PREFIX = "nvidia.com/"


def container_resources(role: RoleSpec) -> dict[str, dict[str, str]]:
    """Return requests and limits; a worker has one accelerator for each rank."""
    requests, limits = dict(role.resources.requests), dict(role.resources.limits)
    for name in ACCELERATORS:
        if name in requests or name in limits:
            # Kubernetes wants a limit for such a resource, and a request equal to it.
            limits[name] = str(role.tensor_parallel)
            if name in requests:
                requests[name] = limits[name]
    given = {"requests": requests, "limits": limits}
    return {kind: amounts for kind, amounts in given.items() if amounts}


def has_cuda(role: RoleSpec) -> bool:
    """Whether a worker has an NVIDIA GPU, or a slice of one."""
    names = {*role.resources.requests, *role.resources.limits}
    return any(name.startswith(CUDA_PREFIX) for name in names)


def threads(role: RoleSpec) -> int | None:
    """Return the threads of a worker that computes on a CPU; None: one for each core there is.

    More threads than its share of cores would stop each other: the kernel takes the cores away from
    all of them at once.
    """
    cores = role.resources.limits.get("cpu") or role.resources.requests.get("cpu")
    if cores is None or has_cuda(role):
        return None
    milli = cores.endswith("m")
    try:
        count = Decimal(cores.removesuffix("m")) / (1000 if milli else 1)
    except ArithmeticError:  # "1k" cores: the kubelet's to judge.
        return None
    return max(1, math.ceil(count))

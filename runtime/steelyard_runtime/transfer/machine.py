"""Whether one process of this machine may read another's memory, and whether there is RDMA.

Asked of the kernel, not guessed: containers, users and security modules decide it.
"""

import ctypes
import hashlib
import os
from pathlib import Path

# UCX's names for cross-memory attach, alone or in a group.
CMA_NAMES = frozenset({"cma", "sm", "shm", "all"})


class _Region(ctypes.Structure):
    """`struct iovec` of process_vm_readv(2)."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def allows_cma(ucx_tls: str) -> bool:
    """Whether this value of UCX_TLS lets UCX read other processes' memory."""
    names = frozenset(ucx_tls.removeprefix("^").split(","))
    if ucx_tls.startswith("^"):
        return not names & CMA_NAMES
    return bool(names & CMA_NAMES)


def machine_identity() -> str:
    """Return a text that differs between machines, containers and users."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespaces = [Path(f"/proc/self/ns/{kind}").stat().st_ino for kind in ("pid", "user")]
    except OSError:
        return ""
    return hashlib.sha256(f"{boot} {namespaces} {os.getuid()}".encode()).hexdigest()[:32]


def can_read(process_id: int, address: int) -> bool:
    """Whether the memory of a process of this machine can be read; works on a stopped one too."""
    try:
        process_vm_readv = ctypes.CDLL(None, use_errno=True).process_vm_readv
    except (OSError, AttributeError):
        return False
    process_vm_readv.restype = ctypes.c_ssize_t
    byte = ctypes.create_string_buffer(1)
    ours = _Region(ctypes.addressof(byte), 1)
    theirs = _Region(address, 1)
    arguments = (ctypes.byref(ours), ctypes.c_ulong(1), ctypes.byref(theirs), ctypes.c_ulong(1))
    return int(process_vm_readv(process_id, *arguments, ctypes.c_ulong(0))) == 1


def has_rdma() -> bool:
    """Whether this machine has a network card that reads remote memory by itself."""
    try:
        return any(Path("/sys/class/infiniband").iterdir())
    except OSError:
        return False

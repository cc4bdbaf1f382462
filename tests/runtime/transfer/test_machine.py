"""When NIXL may be taken: what the kernel and UCX's settings allow."""

import ctypes
import os

import pytest

from steelyard_runtime.testing.block_memory import PlainBlockMemory
from steelyard_runtime.transfer import machine
from steelyard_runtime.transfer.messages import PROTOCOL, Greeting, NixlEndpoint
from steelyard_runtime.transfer.nixl import NixlTransport


@pytest.mark.parametrize(
    ("ucx_tls", "allowed"),
    [
        ("^sysv,posix", True),
        ("all", True),
        ("tcp,cma,self", True),
        ("tcp,sm", True),
        ("tcp", False),
        ("^sm", False),
        ("rc,cuda_copy", False),
    ],
)
def test_ucx_settings_that_read_other_processes(ucx_tls, allowed) -> None:
    """UCX_TLS with cross-memory attach, by name or in a group, reads other processes."""
    assert machine.allows_cma(ucx_tls) == allowed


def test_reading_is_tried_not_guessed() -> None:
    """An address that is there can be read; another one, or another process, cannot."""
    byte = ctypes.create_string_buffer(b"x")
    address = ctypes.addressof(byte)
    assert machine.can_read(os.getpid(), address)
    assert not machine.can_read(os.getpid(), 8)
    assert not machine.can_read(2**22 + 1, address)


@pytest.mark.parametrize(
    ("everywhere", "change", "reached"),
    [
        (False, {}, True),
        (False, {"machine": "another"}, False),
        (False, {"machine": ""}, False),
        (False, {"process_id": 2**22 + 1}, False),
        (True, {"machine": "another"}, True),
    ],
)
def test_auto_takes_nixl_for_readable_peers_only(nixl, everywhere, change, reached) -> None:
    """NIXL is used for a process of this machine whose memory can be read, else where told to."""
    memory = PlainBlockMemory(2, 4096)
    transport = NixlTransport(memory, engine_id="e", recycle_seconds=1, everywhere=everywhere)
    transport.start()
    endpoint = transport.endpoint()
    assert endpoint is not None
    shape = {"machine": endpoint.machine, "process_id": os.getpid()} | change
    theirs = NixlEndpoint(b"metadata", memory.base_address(), **shape)
    peer = Greeting(PROTOCOL, "p", "f", 4096, ["nixl", "tcp"], 1.0, theirs)
    assert transport.reaches(peer) == reached
    assert not transport.reaches(Greeting(PROTOCOL, "p", "f", 4096, ["tcp"], 1.0, theirs))
    transport.close()

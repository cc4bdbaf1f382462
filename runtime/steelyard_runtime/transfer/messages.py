"""The messages of the KV side channel, between a decode worker (client) and a prefill worker.

One request, one reply, in order, on each connection. Sizes are bounded here, in the types, so that
a decoded message needs no further checks of shape.
"""

from typing import Annotated, Literal

import msgspec

PROTOCOL = 1

Name = Annotated[str, msgspec.Meta(max_length=512)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]
Checksum = Annotated[int, msgspec.Meta(ge=0)]
MAX_BLOCKS = 1 << 17
MAX_RENEWALS = 4096

FailureCode = Literal["protocol", "unknown_lease", "range"]


class NixlEndpoint(msgspec.Struct, frozen=True):
    """How NIXL reaches a worker's pool, and from where it does so without the worker's help."""

    metadata: Annotated[bytes, msgspec.Meta(max_length=1 << 18)]
    base_address: Annotated[int, msgspec.Meta(ge=0)]
    device_id: Count = 0
    memory: Literal["DRAM", "VRAM"] = "DRAM"
    machine: Name = ""  # equal for processes that see each other
    process_id: Count = 0
    rdma: bool = False


class Greeting(msgspec.Struct, frozen=True):
    """Who speaks; both sides send one before anything else."""

    protocol: Count
    engine_id: Name
    fingerprint: Name
    block_bytes: Count
    transports: Annotated[list[Name], msgspec.Meta(max_length=8)]
    lease_seconds: float
    nixl: NixlEndpoint | None = None


# --- decode -> prefill --------------------------------------------------------------------------


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The first request on a connection."""

    greeting: Greeting


class Open(msgspec.Struct, frozen=True, tag="open"):
    """Ask for `count` blocks of a lease, from `first_block` on; renews the lease."""

    request_id: Name
    first_block: Count
    count: Annotated[int, msgspec.Meta(ge=0, le=MAX_BLOCKS)]


class Read(msgspec.Struct, frozen=True, tag="read"):
    """Ask for the bytes of opened blocks; they follow the reply, unframed (TCP transport)."""

    request_id: Name
    lease_id: Name
    first_block: Count
    count: Annotated[int, msgspec.Meta(ge=0, le=MAX_BLOCKS)]


class Renew(msgspec.Struct, frozen=True, tag="renew"):
    """Heartbeat: keep these leases."""

    request_ids: Annotated[list[Name], msgspec.Meta(max_length=MAX_RENEWALS)]


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The blocks were read, or are not needed because they are cached here."""

    request_id: Name


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """The blocks will not be read."""

    request_id: Name


Request = Hello | Open | Read | Renew | Done | Abort


# --- prefill -> decode --------------------------------------------------------------------------


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """Answers `Hello`."""

    greeting: Greeting


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """Answers `Open`; checksums and pool block ids are those of the blocks asked for."""

    lease_id: Name
    num_tokens: Count
    block_ids: Annotated[list[Count], msgspec.Meta(max_length=MAX_BLOCKS)]
    checksums: Annotated[list[Checksum], msgspec.Meta(max_length=MAX_BLOCKS)]
    remaining_seconds: float


class Reading(msgspec.Struct, frozen=True, tag="reading"):
    """Answers `Read`; `num_bytes` bytes follow."""

    num_bytes: Annotated[int, msgspec.Meta(ge=0)]


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """Answers `Renew`, `Done` and `Abort`: those of the named leases that do not exist (now)."""

    unknown: list[Name] = []


class Failure(msgspec.Struct, frozen=True, tag="failure"):
    """A request that cannot be served; the connection goes on."""

    code: FailureCode
    message: Name


Reply = Welcome | Opened | Reading | Ended | Failure

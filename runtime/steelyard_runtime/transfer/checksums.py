"""The checksum of one exported block.

xxh3 (64 bits) seeded with the lease, the request and the block's position, so that bytes of an
older lease, of another request or of another position never match. It finds faults and reuse;
it is no defence against somebody who changes packets on the wire.
"""

import xxhash


def block_checksum(view: memoryview, request_id: str, lease_id: str, index: int) -> int:
    """Return the checksum of block `index` (position in the prompt) of a lease."""
    seed = xxhash.xxh3_64_intdigest(f"1\0{lease_id}\0{index}\0{request_id}".encode())
    return xxhash.xxh3_64_intdigest(view, seed=seed)

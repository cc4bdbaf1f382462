"""Reads the KV blocks of a prompt out of a running worker, over its side channel, like a peer."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xxhash import xxh3_64_hexdigest

from steelyard_runtime.config import TransferConfig
from steelyard_runtime.ipc.messages import RemotePrefill
from steelyard_runtime.testing.block_memory import PlainBlockMemory
from steelyard_runtime.testing.processes import Worker, fetch, wait_for
from steelyard_runtime.transfer.interface import PullDone, PullFailed, TransferEvent
from steelyard_runtime.transfer.registry import make_transfer

MAX_BLOCKS = 128


@dataclass(frozen=True, slots=True)
class CachedBlocks:
    """The full blocks of a prompt in one worker."""

    cached_tokens: int  # of the prompt, found in the prefix cache when this was read
    digests: tuple[str, ...]  # of the bytes of each full block


def read_cached_blocks(
    worker: Worker, body: Mapping[str, Any], *, block_bytes: int, block_tokens: int = 16
) -> CachedBlocks:
    """Let `worker` prefill what its cache lacks of the prompt, and read the prompt's full blocks.

    For a worker without other work: returns when it has no lease left.

    Raises:
        RuntimeError: the pull failed.
    """
    asked = {**body, "max_tokens": 1, "kv_transfer_params": {"do_remote_decode": True}}
    answer = json.loads(fetch(worker.url + "/v1/completions", body=asked))
    params = answer["kv_transfer_params"]
    num_tokens = params["remote_num_tokens"]
    num_full = num_tokens // block_tokens
    memory = PlainBlockMemory(MAX_BLOCKS, block_bytes)
    transfer = make_transfer(
        TransferConfig(transport="tcp", port=0, token=worker.token),
        engine_id=f"reader-{os.getpid()}",
        fingerprint=params["steelyard"]["fingerprint"],
        memory=memory,
        environment={},
    )
    transfer.start()
    try:
        remote = RemotePrefill(
            engine_id=params["remote_engine_id"],
            request_id=params["remote_request_id"],
            host=params["remote_host"],
            port=params["remote_port"],
            block_ids=params["remote_block_ids"],
            num_tokens=num_tokens,
            fingerprint=params["steelyard"]["fingerprint"],
        )
        transfer.pull("read", remote, 0, list(range(num_full)), num_tokens)
        seen: list[TransferEvent] = []

        def ended() -> TransferEvent | None:
            seen.extend(transfer.events())
            ends = [event for event in seen if isinstance(event, PullDone | PullFailed)]
            return ends[0] if ends else None

        end = wait_for(ended, "the pull's end")
        if not isinstance(end, PullDone):
            raise RuntimeError(f"cannot read the blocks: {end}")
        # Closing at once would leave the blocks to their lease.
        wait_for(lambda: not worker.state()["blocks"]["leased"], "the notification")
    finally:
        transfer.close()
    return CachedBlocks(
        answer["usage"]["prompt_tokens_details"]["cached_tokens"],
        tuple(xxh3_64_hexdigest(memory.view(block)) for block in range(num_full)),
    )

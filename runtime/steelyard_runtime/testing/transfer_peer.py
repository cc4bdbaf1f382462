"""A worker without a model, for tests of KV transfer between two processes.

`python -m steelyard_runtime.testing.transfer_peer` reads one JSON object a line: first
`{"config": …, "num_blocks", "block_bytes", "seed"}`, then `{"export": [request id, block ids,
tokens]}`, `{"pull": [request id, kv_transfer_params, block ids, tokens]}` or `{"events": true}`;
it answers each with a line and ends with its standard input.
"""

import json
import os
import sys
from typing import Any

import msgspec

from steelyard_runtime.config import TransferConfig
from steelyard_runtime.ipc.messages import RemotePrefill
from steelyard_runtime.testing.block_memory import PlainBlockMemory
from steelyard_runtime.transfer.registry import make_transfer


def main() -> None:
    """Serve until standard input ends."""
    setup = json.loads(sys.stdin.readline())
    memory = PlainBlockMemory(setup["num_blocks"], setup["block_bytes"])
    memory.fill(setup["seed"])
    transfer = make_transfer(
        msgspec.convert(setup["config"], TransferConfig),
        engine_id=f"peer-{os.getpid()}",
        fingerprint="f" * 64,
        memory=memory,
        environment=os.environ,
    )
    transfer.start()
    _answer({"port": transfer.port})
    for line in sys.stdin:
        command = json.loads(line)
        if "export" in command:
            request_id, block_ids, num_tokens = command["export"]
            _answer(transfer.export(request_id, block_ids, num_tokens))
        elif "pull" in command:
            request_id, params, block_ids, num_tokens = command["pull"]
            transfer.pull(request_id, remote_prefill(params), 0, block_ids, num_tokens)
            _answer({})
        else:
            events = [[type(event).__name__, event.request_id] for event in transfer.events()]
            gauges, counters, _ = transfer.stats()
            _answer({"events": events, "stats": gauges | counters})
    transfer.close()


def remote_prefill(params: dict[str, Any]) -> RemotePrefill:
    """Read `kv_transfer_params` as a decode worker does."""
    return RemotePrefill(
        engine_id=params["remote_engine_id"],
        request_id=params["remote_request_id"],
        host=params["remote_host"],
        port=params["remote_port"],
        block_ids=params["remote_block_ids"],
        num_tokens=params["remote_num_tokens"],
        fingerprint=params["steelyard"]["fingerprint"],
    )


def _answer(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

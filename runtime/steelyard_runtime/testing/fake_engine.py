"""An engine process without a model: scripted tokens, pauses, refusals and death.

Speaks the frames of `ipc/`. Inside a test it runs as a task on one end of a socket pair; as
`python -m steelyard_runtime.testing.fake_engine` it is what `serve` starts, told what to do by the
JSON of `STEELYARD_FAKE_ENGINE`.
"""

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from steelyard_runtime.config import EngineConfig
from steelyard_runtime.ipc.framing import encode_frame, read_frame
from steelyard_runtime.ipc.messages import (
    Abort,
    AddRequest,
    Call,
    EngineStats,
    Failed,
    FromEngine,
    Output,
    Outputs,
    Progress,
    Ready,
    Reply,
    Shutdown,
    ToEngine,
    TokenLogprobs,
)

VARIABLE = "STEELYARD_FAKE_ENGINE"
SOCKET_VARIABLE = "STEELYARD_ENGINE_SOCKET_FD"
REPLY = "Hello, world! "

Reason = Literal["stop", "length", "abort", "error"]


@dataclass(slots=True)
class Script:
    """What one sequence brings."""

    token_ids: list[int]
    finish_reason: Reason | None = "length"
    error: str = ""
    error_status: int = 500
    error_param: str = ""
    tokens_per_output: int = 1
    num_cached_tokens: int = 0
    hold_after: int | None = None  # wait for `FakeEngine.gate` after so many tokens
    die_after: int | None = None  # close the socket after so many tokens
    step_seconds: float = 0.0
    kv_transfer_params: dict[str, Any] | None = None


def hello(request: AddRequest) -> Script:
    """Repeat a greeting in UTF-8 bytes for as long as the request allows."""
    count = request.params.max_tokens - len(request.resume_token_ids)
    text = REPLY.encode()
    start = len(request.resume_token_ids)
    return Script([text[(start + i) % len(text)] for i in range(count)])


@dataclass
class FakeEngine:
    """One engine. Tests set `script` and read what arrived."""

    sock: socket.socket
    script: Callable[[AddRequest], Script] = hello
    max_model_len: int = 4096
    vocab_size: int = 258
    fail: str | None = None
    wrong_input: bool = False
    added: list[AddRequest] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    config: EngineConfig | None = None
    draining: bool = False
    epoch: int = 0
    leased: int = 0
    gauges: dict[str, float] = field(default_factory=dict)
    counters: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.gate = asyncio.Event()
        self.start_gate = asyncio.Event()
        self.start_gate.set()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._role = "both"
        self._writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        """Serve until told to stop or until `die`."""
        reader, self._writer = await asyncio.open_connection(sock=self.sock)
        first = await read_frame(reader)
        if first is None:
            return
        self.config = msgspec.msgpack.decode(first, type=EngineConfig)
        self._role = self.config.role
        self._send(Progress("load", 50))
        await self.start_gate.wait()
        if self.fail is not None:
            self._send(Failed(self.fail, wrong_input=self.wrong_input))
            self.die()
            return
        self._send(self._ready(self.config))
        decoder = msgspec.msgpack.Decoder(ToEngine)
        while (body := await read_frame(reader)) is not None:
            message = decoder.decode(body)
            if isinstance(message, Shutdown):
                break
            self._handle(message)
        self.die()

    def forget(self) -> None:
        """Be as at the start: for a test after another one."""
        self.script = hello
        self.added.clear()
        self.aborted.clear()
        self.calls.clear()
        self.gate = asyncio.Event()

    def die(self) -> None:
        """Close the socket, as the end of the process would."""
        for task in self._running.values():
            task.cancel()
        self._running.clear()
        if self._writer is not None:
            self._writer.close()

    def _ready(self, config: EngineConfig) -> Ready:
        return Ready(
            engine_id=config.engine_id,
            fingerprint="f" * 64,
            max_model_len=config.max_model_len or self.max_model_len,
            vocab_size=self.vocab_size,
            block_size=config.block_size,
            num_blocks=100,
            kv_port=config.transfer.port,
            device="cpu",
            dtype="float32",
        )

    def report(self, stats: EngineStats) -> None:
        """Send stats, as a step would."""
        self._send(Outputs([], stats))

    def _send(self, message: FromEngine) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(encode_frame(message))

    def _handle(self, message: AddRequest | Abort | Call) -> None:
        match message:
            case AddRequest():
                self.added.append(message)
                task = asyncio.ensure_future(self._play(message, self.script(message)))
                self._running[message.request_id] = task
                task.add_done_callback(lambda _: self._running.pop(message.request_id, None))
            case Abort():
                self.aborted.append(message.request_id)
                task_or_none = self._running.pop(message.request_id, None)
                if task_or_none is not None:
                    task_or_none.cancel()
            case Call():
                self.calls.append(message)
                self._send(self._answer(message))

    async def _play(self, request: AddRequest, script: Script) -> None:
        if self.draining:
            script = Script([], "error", "draining", 503)
        sent, size, first = 0, script.tokens_per_output, True
        total = len(script.token_ids)
        while True:
            if sent == script.hold_after:
                await self.gate.wait()
            if sent == script.die_after:
                self.die()
                return
            if script.step_seconds:
                await asyncio.sleep(script.step_seconds)
            ids = script.token_ids[sent : sent + size]
            sent += len(ids)
            is_last = sent >= total
            self._send(Outputs([self._output(request, script, ids, first, is_last)]))
            first = False
            if is_last:
                return
            await asyncio.sleep(0)

    def _output(
        self, request: AddRequest, script: Script, ids: list[int], first: bool, last: bool
    ) -> Output:
        params, now_ns = request.params, time.monotonic_ns()
        logprobs = prompt_logprobs = None
        if params.logprobs is not None:
            logprobs = [_logprobs(token_id, params.logprobs) for token_id in ids]
        if first and params.prompt_logprobs is not None:
            rest = [_logprobs(i, params.prompt_logprobs) for i in request.prompt_token_ids[1:]]
            prompt_logprobs = [None, *rest]
        return Output(
            request.request_id,
            ids,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            finish_reason=script.finish_reason if last else None,
            error=script.error if last else "",
            error_status=script.error_status,
            error_param=script.error_param,
            num_cached_tokens=script.num_cached_tokens if first else 0,
            scheduled_at_ns=now_ns if first else 0,
            logits_at_ns=now_ns,
            kv_transfer_params=script.kv_transfer_params if last else None,
        )

    def _answer(self, call: Call) -> Reply:
        epoch = call.arguments.get("epoch")
        if epoch is not None and epoch < self.epoch:
            return Reply(call.call_id, error=f"`epoch` {epoch} is too old", error_status=409)
        self.epoch = self.epoch if epoch is None else epoch
        if call.method == "drain":
            self.draining = True
        elif call.method == "role":
            role = call.arguments["role"]
            if role != self._role and (not self.draining or self._in_flight):
                return Reply(call.call_id, error="not drained", error_status=409)
            self._role, self.draining = role, False
        return Reply(call.call_id, result=self._state())

    @property
    def _in_flight(self) -> int:
        return len(self._running) + self.leased

    def _state(self) -> dict[str, Any]:
        phase = "ready"
        if self.draining:
            phase = "draining" if self._in_flight else "drained"
        blocks = {"total": 100, "free": 100, "cached": 0, "referenced": 0, "leased": self.leased}
        return {
            "role": self._role,
            "phase": phase,
            "inFlight": self._in_flight,
            "epoch": self.epoch,
            "blocks": {**blocks, "quarantined": 0},
            "running": len(self._running),
            "waiting": 0,
            "landing": 0,
            "gauges": {"vllm:num_requests_running": float(len(self._running)), **self.gauges},
            "counters": self.counters,
        }


def _logprobs(token_id: int, count: int) -> TokenLogprobs:
    top = [(token_id, -0.5), *((other, -1.0 - other) for other in range(count))]
    return TokenLogprobs(token_id, -0.5, top[:count])


async def main() -> int:
    """Run as the engine process of `serve`; returns the exit code."""
    orders: dict[str, Any] = json.loads(os.environ.get(VARIABLE, "{}"))
    engine = FakeEngine(socket.socket(fileno=int(os.environ[SOCKET_VARIABLE])))
    engine.fail = orders.get("fail")
    engine.wrong_input = bool(orders.get("wrong_input"))
    script = orders.get("script", {})

    def scripted(request: AddRequest) -> Script:
        made = hello(request)
        for name, value in script.items():
            setattr(made, name, value)
        return made

    engine.script = scripted
    await engine.run()
    return int(orders.get("exit_code", 0))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

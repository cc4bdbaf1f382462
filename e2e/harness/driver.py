"""The client of the scenarios; runs in a pod, alone, from a mounted file.

    python driver.py record PLAN      ask each question once, one after the other; print the answers
    python driver.py drive PLAN       keep streams open until SIGTERM, which lets them end

It never tries again: each request is one connection of its own, and what happens to it is a line of
JSON on standard output. How many streams are open now is in STATE. Nothing is judged here but
whether an answer is the expected one (`verdict.py`).
"""

import asyncio
import itertools
import json
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

STATE = Path("/tmp/state.json")  # a pod's own, see traffic.py
SILENCE_SECONDS = 90.0  # then a stream is given up; a longer gap than is allowed
PAUSE_AFTER_FAILURE_SECONDS = 0.5  # or a refused connection would be tried a thousand times


@dataclass(slots=True)
class Record:
    """What happened to one request."""

    number: int
    question: int
    started: float  # seconds of the Unix epoch
    first_seconds: float | None = None  # until the first piece of text
    longest_gap_seconds: float = 0.0  # without a piece of text, from the request on
    seconds: float = 0.0
    tokens: int = 0
    error: str = ""
    text: str = ""
    pieces: list[str] = field(default_factory=list)
    ended: bool = False

    def line(self) -> str:
        """Return what is printed: the text only where it is wrong."""
        content = {name: value for name, value in asdict(self).items() if name != "pieces"}
        return json.dumps(content)

    def take(self, payload: str) -> bool:
        """Read one event; returns whether it brought text."""
        if payload == "[DONE]":
            self.ended = True
            return False
        event = json.loads(payload)
        if "error" in event:
            self.error = f"the stream brought an error: {event['error']}"
            return False
        if event.get("usage"):
            self.tokens = event["usage"]["completion_tokens"]
        pieces = [choice.get("text") or "" for choice in event.get("choices", [])]
        self.pieces += pieces
        return any(pieces)


class Driver:
    """Keeps a number of streams open."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan
        self._stopping = asyncio.Event()
        self._numbers = itertools.count()
        self._open: dict[int, Record] = {}
        self.finished = self.failed = 0

    async def drive(self) -> None:
        """Run until SIGTERM; returns when the last stream has ended."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        async with _session() as session:
            await asyncio.gather(
                *(self._one_after_another(session, i) for i in range(self._plan["streams"]))
            )
        self._write_state()

    async def _one_after_another(self, session: aiohttp.ClientSession, first: int) -> None:
        questions = self._plan["questions"]
        for index in itertools.count(first):
            if self._stopping.is_set():
                return
            record = Record(next(self._numbers), index % len(questions), time.time())
            self._open[record.number] = record
            self._write_state()
            await ask(session, self._plan, record, salted=True, changed=self._write_state)
            del self._open[record.number]
            self.finished += 1
            expected = questions[record.question]["answer"]
            if not record.error and record.text != expected:
                record.error = "the text is not the recorded answer"
            elif not record.error:
                record.text = ""
            if record.error:
                self.failed += 1
                await asyncio.sleep(PAUSE_AFTER_FAILURE_SECONDS)
            print(record.line(), flush=True)
            self._write_state()

    def _write_state(self) -> None:
        begun = sum(record.first_seconds is not None for record in self._open.values())
        waiting = len(self._open) - begun
        state = {"begun": begun, "waiting": waiting, "finished": self.finished}
        state["failed"] = self.failed
        fresh = STATE.with_suffix(".new")
        fresh.write_text(json.dumps(state))
        fresh.replace(STATE)


async def ask(
    session: aiohttp.ClientSession,
    plan: dict[str, Any],
    record: Record,
    *,
    salted: bool,
    changed: Any = lambda: None,
) -> None:
    """Ask one question and read the answer to its end; what goes wrong is in the record."""
    body = dict(plan["questions"][record.question]["body"])
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    if salted:  # A cache that knows the prompt would leave prefill without work.
        body["cache_salt"] = f"{record.started}-{record.number}"
    begin = last = time.monotonic()
    try:
        async with session.post(plan["url"] + "/v1/completions", json=body) as answer:
            if answer.status != 200:
                record.error = f"status {answer.status}: {(await answer.text())[:500]}"
            async for line in answer.content:
                if not line.startswith(b"data: ") or not record.take(line[6:].decode().strip()):
                    continue
                now = time.monotonic()
                record.longest_gap_seconds = max(record.longest_gap_seconds, now - last)
                last = now
                if record.first_seconds is None:
                    record.first_seconds = now - begin
                    changed()
        if not record.ended and not record.error:
            record.error = "the stream ended without [DONE]"
    except (OSError, aiohttp.ClientError, TimeoutError, ValueError) as error:
        record.error = f"{type(error).__name__}: {error}"
    record.longest_gap_seconds = max(record.longest_gap_seconds, time.monotonic() - last)
    record.seconds = time.monotonic() - begin
    record.text = "".join(record.pieces)


async def record_answers(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the answers of a service that does nothing else."""
    answers = []
    async with _session() as session:
        for index in range(len(plan["questions"])):
            record = Record(index, index, time.time())
            await ask(session, plan, record, salted=False)
            answers.append({"text": record.text, "tokens": record.tokens, "error": record.error})
    return answers


def _session() -> aiohttp.ClientSession:
    # One connection a request: each goes through the Service anew, to whichever router that picks.
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=SILENCE_SECONDS)
    return aiohttp.ClientSession(connector=connector, timeout=timeout)


def main() -> None:
    """Run one of the two commands."""
    command, path = sys.argv[1:]
    plan = json.loads(Path(path).read_text())
    if command == "record":
        print(json.dumps(asyncio.run(record_answers(plan))), flush=True)
    else:
        asyncio.run(Driver(plan).drive())


if __name__ == "__main__":
    main()

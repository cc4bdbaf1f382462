"""A stand-in for `steelyard-runtime`, run as a script by the tests: answers without a model.

`FAKE_STOP_AT` holds workers in one phase; `FAKE_EXIT` makes workers write a sentence and end with
that code; `FAKE_DEAF` makes all ignore SIGTERM; `FAKE_LOG` is a file that gets a line for each
start and each graceful end.
"""

import argparse
import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from steelyard_runtime.parent_pipe import exit_with_parent

PIECES = ["Hel", "lo", "!"]
PHASES = ["loading", "warmup", "ready"]


def log(event: str) -> None:
    """Add a line to the test's record."""
    with Path(os.environ["FAKE_LOG"]).open("a", encoding="utf-8") as file:
        file.write(f"{event}\n")


def phase(started_at: float) -> str:
    """A phase lasts 0.1 s, unless the test holds it."""
    last = PHASES.index(os.environ.get("FAKE_STOP_AT", "ready"))
    return PHASES[min(int((time.monotonic() - started_at) / 0.1), last)]


class Handler(BaseHTTPRequestHandler):
    """Both the admin port of a worker and the router."""

    flags: argparse.Namespace
    started_at: float
    token: str

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        """Answer `/state` and `/router/workers`."""
        if self.path == "/state":
            if self.headers["Authorization"] != f"Bearer {self.token}":
                self._json(401, {})
                return
            state = phase(self.started_at)
            self._json(200, {"role": self.flags.role, "phase": state, "fingerprint": "f" * 64})
            return
        members = json.loads(Path(self.flags.membership_file).read_text())["workers"]
        workers = [
            {"id": member["id"], "healthy": member["phase"] == "ready"} for member in members
        ]
        last = {"prefill": "smollm2-0", "decode": "smollm2-1", "decision": "remote"}
        self._json(200, {"workers": workers, "lastPlacement": last})

    def do_POST(self) -> None:
        """Stream three pieces of text and the usage."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["messages"][0]["content"] == "too long":
            self._json(400, {"error": {"message": "the prompt has 9000 tokens"}})
            return
        self.send_response(200)
        self.end_headers()
        events: list[dict[str, Any]] = [{"choices": [{"delta": {"content": p}}]} for p in PIECES]
        events.append({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})
        for event in events:
            self.wfile.write(f": keep-alive\n\ndata: {json.dumps(event)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def _json(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def main() -> None:
    """Serve until SIGTERM."""
    exit_with_parent(os.environ)
    parser = argparse.ArgumentParser()
    for flag in ("--role", "--membership-file", "--service-token-file", "--served-model-name"):
        parser.add_argument(flag)
    for flag in ("--port", "--admin-port"):
        parser.add_argument(flag, type=int)
    command = sys.argv[1]
    Handler.flags, _ = parser.parse_known_args(sys.argv[2:])
    name = Handler.flags.role or command
    log(f"start {name} {os.getpid()}")
    if command == "serve":
        Handler.token = Path(Handler.flags.service_token_file).read_text()
        if "FAKE_EXIT" in os.environ:
            sys.stderr.write("a log line\nsteelyard-runtime: --model: no such file\n")
            sys.exit(int(os.environ["FAKE_EXIT"]))
    port = Handler.flags.admin_port or Handler.flags.port
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)

    def stop(*_: object) -> None:
        log(f"stop {name}")
        Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, signal.SIG_IGN if "FAKE_DEAF" in os.environ else stop)
    Handler.started_at = time.monotonic()
    server.serve_forever(poll_interval=0.02)


if __name__ == "__main__":
    main()

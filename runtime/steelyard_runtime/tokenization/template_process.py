"""A process that renders chat templates, within bounds of time and memory.

A template comes with a checkpoint and is a program: it may loop without end or double a text until
memory is gone, and no sandbox inside a process stops either. So it runs in a process of its own,
which holds no secret, and which its parent ends when it must.

The socket that `FD_VARIABLE` names carries frames of `ipc/framing.py`: one `Templates`, then
`Render`s; each is answered by a `Done`. The process ends with the socket.
"""

import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import msgspec

from steelyard_runtime.errors import CheckpointError, RequestError
from steelyard_runtime.ipc.framing import BlockingFrames
from steelyard_runtime.tokenization.chat_template import ChatTemplate

FD_VARIABLE = "STEELYARD_TEMPLATE_SOCKET_FD"
# A second more than the polite limit, for what Python cannot interrupt: one long call in C.
GRACE_SECONDS = 1


class Templates(msgspec.Struct):
    """The templates of a model, and what the process may take."""

    sources: dict[str, str]
    special_tokens: dict[str, str]
    seconds: float  # for compiling all, and for each rendering
    memory_bytes: int


class Render(msgspec.Struct):
    """A conversation; the fields are those of `ChatTemplate.render`."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    add_generation_prompt: bool
    continue_final_message: bool
    variables: dict[str, Any] | None
    max_characters: int


class Done(msgspec.Struct):
    """What came of it: a text, or why there is none."""

    text: str = ""
    error: str | None = None
    param: str | None = None
    code: str | None = None


class _TooLongError(BaseException):
    """Not an `Exception`: whatever a template's expressions raise is caught on the way."""


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _on_alarm(number: int, frame: FrameType | None) -> None:
    raise _TooLongError


def _bounded(work: Callable[[], str], templates: Templates) -> Done:
    """Return what `work` comes to; whatever happens is an answer."""
    try:
        with _alarm(templates.seconds):
            return Done(work())
    except _TooLongError:
        return Done(error=f"it takes more than {templates.seconds:g} s", code="too_long")
    except MemoryError:
        megabytes = templates.memory_bytes >> 20
        return Done(error=f"it takes more than {megabytes} MiB of memory", code="too_large")
    except RequestError as error:
        return Done(error=error.message, param=error.param, code=error.code)
    except CheckpointError as error:
        return Done(error=str(error))
    except RecursionError:
        return Done(error="it is nested too deeply")
    except Exception as error:  # A damaged template or message; the process lives on.
        return Done(error=str(error).partition("\n")[0] or type(error).__name__)


def serve(sock: socket.socket) -> None:
    """Answer until the other end is gone."""
    frames = BlockingFrames(sock)
    first = frames.read()
    if first is None:
        return
    templates = msgspec.msgpack.decode(first, type=Templates)
    limit = templates.memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, _on_alarm)
    compiled: list[ChatTemplate] = []

    def compile_all() -> str:
        compiled.append(ChatTemplate(templates.sources, templates.special_tokens))
        return ""

    frames.write(_bounded(compile_all, templates))
    decoder = msgspec.msgpack.Decoder(Render)
    while compiled and (body := frames.read()) is not None:
        # An orphan in one long call in C would not see the end of its socket.
        signal.setitimer(signal.ITIMER_PROF, templates.seconds + GRACE_SECONDS)
        frames.write(
            _bounded(lambda: _render(compiled[0], decoder.decode(body)), templates)
        )  # runs at once
        signal.setitimer(signal.ITIMER_PROF, 0)


def _render(template: ChatTemplate, request: Render) -> str:
    return template.render(
        request.messages,
        tools=request.tools,
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=request.continue_final_message,
        variables=request.variables,
        max_characters=request.max_characters,
    )


def main() -> int:
    """Serve the socket that the environment names; returns the exit code."""
    # Ctrl-C in a terminal is for the parent, which closes the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(socket.socket(fileno=int(os.environ[FD_VARIABLE])))
    return 0


if __name__ == "__main__":
    sys.exit(main())

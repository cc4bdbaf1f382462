"""kubectl, as a user has it: every call names its context, and a wait asks again and again."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, TypeVar

POLL_SECONDS = 0.5
T = TypeVar("T")


class KubectlError(Exception):
    """kubectl said no; the message is what it wrote."""


class NotYetError(AssertionError):
    """What was waited for did not come."""


@dataclass(frozen=True, slots=True)
class Kubectl:
    """Calls against one namespace of one cluster."""

    context: str
    namespace: str  # empty: the one that each object names
    environment: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 60) -> str:
        """Run one call and return its standard output.

        Raises:
            KubectlError: it failed, or did not end in time.
        """
        try:
            done = subprocess.run(
                self._command(arguments),
                check=False,
                input=stdin,
                capture_output=True,
                text=True,
                timeout=timeout,
                env=self._environment(),
            )
        except subprocess.TimeoutExpired:
            raise KubectlError(f"no end after {timeout} s: {' '.join(arguments)}") from None
        if done.returncode != 0:
            raise KubectlError(f"{' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    @contextmanager
    def running(self, *arguments: str) -> Iterator[IO[str]]:
        """Run a call that does not end by itself; yields what it prints, and ends it."""
        with subprocess.Popen(
            self._command(arguments), stdout=subprocess.PIPE, text=True, env=self._environment()
        ) as process:
            try:
                assert process.stdout is not None
                yield process.stdout
            finally:
                process.terminate()

    def _command(self, arguments: Sequence[str]) -> list[str]:
        namespace = ("--namespace", self.namespace) if self.namespace else ()
        return ["kubectl", "--context", self.context, *namespace, *arguments]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.environment}

    def answers(self) -> bool:
        """Whether the API server says that it is ready.

        Raises:
            KubectlError: it does not answer.
        """
        return self("get", "--raw", "/readyz", timeout=5) == "ok"

    def read(self, *arguments: str) -> dict[str, Any]:
        """Return what `kubectl get` with these arguments prints."""
        content: dict[str, Any] = json.loads(self("get", *arguments, "--output", "json"))
        return content

    def items(self, kind: str, selector: str = "") -> list[dict[str, Any]]:
        """Return the objects of a kind that have some labels."""
        chosen = ("--selector", selector) if selector else ()
        found: list[dict[str, Any]] = self.read(kind, *chosen)["items"]
        return found

    def apply(self, *documents: Mapping[str, Any]) -> None:
        """Apply some objects."""
        content = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
        self("apply", "--filename", "-", stdin=json.dumps(content))

    def patch(self, kind: str, name: str, change: Mapping[str, Any]) -> None:
        """Merge a change into an object."""
        self("patch", kind, name, "--type", "merge", "--patch", json.dumps(change))

    def execute(self, pod: str, container: str, *command: str, timeout: float = 60) -> str:
        """Run a command in a container and return what it prints."""
        return self("exec", pod, "--container", container, "--", *command, timeout=timeout)


def wait_for(
    what: str, condition: Callable[[], T | None], *, seconds: float, poll: float = POLL_SECONDS
) -> T:
    """Return the first true value of the condition; an API server that is away is no answer.

    Raises:
        NotYetError: it did not come in time.
    """
    deadline = time.monotonic() + seconds
    last = ""
    while True:
        try:
            if found := condition():
                return found
            last = ""
        except KubectlError as error:
            last = f"; the last call failed: {error}"
        if time.monotonic() > deadline:
            raise NotYetError(f"not within {seconds:.0f} s: {what}{last}")
        time.sleep(poll)

"""A hub and a bucket on this machine, over one store of files that tests fill and break."""

import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

from steelyard_runtime import logs
from steelyard_runtime.cli import main
from steelyard_runtime.fetch import download

COMMIT = "c" * 40
TOKEN = "hf_secret"
ACCESS_KEY = "access"
TREE = {
    "config.json": b'{"model_type": "llama"}',
    "model-00001-of-00002.safetensors": bytes(range(256)) * 4000,
    "model-00002-of-00002.safetensors": bytes(range(255, -1, -1)) * 3000,
    "tokenizer.json": b"{}",
    "README.md": b"# read me",
    "pytorch_model.bin": b"the same again",
    "original/consolidated.safetensors": b"and again",
}
WANTED = {
    "config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "tokenizer.json",
}


@dataclass(slots=True)
class Store:
    """What both servers offer, what goes wrong, and what was asked."""

    files: dict[str, bytes] = field(default_factory=lambda: dict(TREE))
    url: str = ""
    private: bool = False
    refuse: tuple[int, str] | None = None  # status and code of every answer
    break_after_bytes: list[int] = field(default_factory=list)  # of the next downloads
    corrupt: bool = False
    excess_bytes: int = 0  # sent beyond a file's end, without a length
    sizes: dict[str, Any] = field(
        default_factory=dict
    )  # that a hub says, in place of the right ones
    listing: bytes | None = None  # the whole answer
    encoding: str | None = None  # that answers say they have
    redirect: str | None = None  # where a hub's downloads lead
    pages_without_end: bool = False
    parts: bool = False  # a bucket's objects were uploaded in parts: their tags are no digests
    asked: list[str] = field(default_factory=list)  # every path
    signatures: list[str] = field(default_factory=list)  # every Authorization header that came
    hold: threading.Event | None = None  # downloads wait for it
    downloading: threading.Event = field(default_factory=threading.Event)
    ranges: list[tuple[str, int]] = field(default_factory=list)  # file and offset of downloads

    def downloads(self, name: str) -> list[int]:
        """The offsets that downloads of a file began at."""
        return [offset for asked, offset in self.ranges if asked == name]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def parse_request(self) -> bool:
        """Note what came."""
        good = super().parse_request()
        if good:
            self.store.asked.append(self.path)
        if good and "Authorization" in self.headers:
            self.store.signatures.append(self.headers["Authorization"])
        return good

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        if self.store.encoding:
            headers["Content_Encoding"] = self.store.encoding
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _content(self, name: str, content: bytes, **headers: str) -> None:
        """Answer with a file or its rest, and break off where the test says so."""
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(found[1]) if found else 0
        self.store.ranges.append((name, first))
        self.store.downloading.set()
        if self.store.hold is not None:
            self.store.hold.wait(20)
        if self.store.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        rest = content[first:]
        self.send_response(206 if found else 200)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        if found:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        if self.store.encoding:
            self.send_header("Content-Encoding", self.store.encoding)
        if self.store.excess_bytes:
            self.send_header("Connection", "close")
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(rest + bytes(self.store.excess_bytes))
            return
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        limits = self.store.break_after_bytes
        if limits and len(rest) > limits[0]:
            self.wfile.write(rest[: limits.pop(0)])
            self.close_connection = True
            return
        self.wfile.write(rest)


class HubHandler(_Handler):
    """The two calls of the hub's API that a fetch needs."""

    def do_GET(self) -> None:
        """Answer."""
        path = unquote(urlsplit(self.path).path)
        if self.store.refuse is not None:
            status, code = self.store.refuse
            self._send(status, b"{}", X_Error_Code=code)
        elif self.store.private and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, b"{}", X_Error_Code="RepoNotFound")
        elif found := re.fullmatch(r"/api/models/org/name(?:/revision/(.+))?", path):
            self._info(found[1])
        elif self.store.redirect and "/resolve/" in path:
            self._send(302, b"", Location=self.store.redirect)
        elif found := re.fullmatch(f"/org/name/resolve/{COMMIT}/(.+)", path):
            self._content(found[1], self.store.files[found[1]])
        else:
            self._send(404, b"{}", X_Error_Code="RepoNotFound")

    def _info(self, revision: str | None) -> None:
        if revision not in (None, "main", "v1", COMMIT):
            self._send(404, b"{}", X_Error_Code="RevisionNotFound")
            return
        if self.store.listing is not None:
            self._send(200, self.store.listing)
            return
        siblings = []
        for name, content in self.store.files.items():
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            size = self.store.sizes.get(name, len(content))
            one: dict[str, Any] = {"rfilename": name, "size": size, "blobId": git}
            if name.endswith((".safetensors", ".gguf")):
                sha256 = hashlib.sha256(content).hexdigest()
                one["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 100}
            siblings.append(one)
        body = {"id": "org/name", "modelId": "org/name", "sha": COMMIT, "siblings": siblings}
        self._send(200, json.dumps(body).encode(), Content_Type="application/json")


class BucketHandler(_Handler):
    """List, head and get of one bucket named `models`, with paths and not hosts."""

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer."""
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).strip("/").partition("/")
        signed = self.headers.get("Authorization", "")
        if self.store.refuse is not None:
            self._error(*self.store.refuse)
        elif self.store.private and f"Credential={ACCESS_KEY}/" not in signed:
            self._error(403, "AccessDenied")
        elif bucket != "models":
            self._error(404, "NoSuchBucket")
        elif not key:
            self._list(parse_qs(parts.query).get("prefix", [""])[0])
        elif key not in self._objects():
            self._error(404, "NoSuchKey")
        else:
            content = self._objects()[key]
            tag = f'"{self._tag(content)}"'
            if self.headers.get("If-Match", tag) != tag:
                self._error(412, "PreconditionFailed")
            elif self.command == "HEAD":
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("ETag", tag)
                self.end_headers()
            else:
                self._content(key.removeprefix("folder/"), content, ETag=tag)

    def _tag(self, content: bytes) -> str:
        return hashlib.md5(content).hexdigest() + ("-2" if self.store.parts else "")

    def _objects(self) -> dict[str, bytes]:
        return {f"folder/{name}": content for name, content in self.store.files.items()}

    def _list(self, prefix: str) -> None:
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(content)}</Size>"
            f"<ETag>&quot;{self._tag(content)}&quot;</ETag></Contents>"
            for key, content in self._objects().items()
            if key.startswith(prefix)
        )
        if self.store.listing is not None:
            self._send(200, self.store.listing, Content_Type="application/xml")
            return
        more = "<IsTruncated>false</IsTruncated>"
        if self.store.pages_without_end:
            token = f"<NextContinuationToken>{time.monotonic_ns()}</NextContinuationToken>"
            more, found = f"<IsTruncated>true</IsTruncated>{token}", ""
        body = f"<ListBucketResult>{more}{found}</ListBucketResult>"
        self._send(200, body.encode(), Content_Type="application/xml")

    def _error(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>m</Message></Error>"
        self._send(status, body.encode(), Content_Type="application/xml")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away."""


def _serve(handler: type[_Handler]) -> Iterator[Store]:
    store = Store()
    bound = type("Bound", (handler,), {"store": store})
    server = _Server(("127.0.0.1", 0), bound)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    store.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield store
    if store.hold is not None:
        store.hold.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between attempts."""
    monkeypatch.setattr(download, "FIRST_PAUSE_SECONDS", 0.0)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, quick: None) -> Iterator[Store]:
    """A hub with the model org/name, and the environment that leads there."""
    for store in _serve(HubHandler):
        monkeypatch.setenv("HF_ENDPOINT", store.url)
        monkeypatch.setenv("STEELYARD_CREDENTIAL_HOSTS", store.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield store


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quick: None) -> Iterator[Store]:
    """A bucket `models` with the model in `folder/`, and the environment that leads there."""
    credentials = tmp_path / "credentials"
    credentials.write_text(
        f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = s\n"
    )
    for store in _serve(BucketHandler):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", store.url)
        monkeypatch.setenv("STEELYARD_CREDENTIAL_HOSTS", store.url)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield store


@dataclass(frozen=True, slots=True)
class Ran:
    """One run of the command."""

    code: int
    said: str


@pytest.fixture
def fetch(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ran]:
    """Run the command in this process, whose logs stay pytest's."""
    monkeypatch.setattr(logs, "configure", lambda level: None)

    def run(*arguments: Any) -> Ran:
        code = main(["fetch", *map(str, arguments)])
        return Ran(code, capsys.readouterr().err)

    return run


@pytest.fixture
def content() -> Callable[[Path], dict[str, bytes]]:
    """What a folder holds, hidden files left out."""

    def read(folder: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and ".steelyard" not in path.parts
        }

    return read


@pytest.fixture
def tree() -> dict[str, bytes]:
    """The files of the model that are wanted."""
    return {name: TREE[name] for name in sorted(TREE) if name in WANTED}

"""hf://: a model of a Hugging Face hub, through `huggingface_hub`.

The library knows addresses, headers and the hub's errors; answers are read here, piece by piece,
so that none is larger than it may be, and one downloader serves all sources (`download.py`). Each
request, of a redirect too, is held to where a token may go.
"""

import contextlib
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
from huggingface_hub import constants, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (
    get_session,
    hf_raise_for_status,
    validate_repo_id,
)

from steelyard_runtime import __version__
from steelyard_runtime.errors import FetchError
from steelyard_runtime.fetch.credential_hosts import CredentialHosts
from steelyard_runtime.fetch.listing import (
    LISTED_BYTES,
    BrokenConnectionError,
    Digest,
    Listing,
    RemoteFile,
    check_path,
    choose,
)

FORM = "hf://org/name[/file.gguf][@revision]"
COMMIT_CHARACTERS = 40
HEXADECIMAL = frozenset("0123456789abcdef")
TIMEOUT_SECONDS = 60.0
# Not the library's: to say what runs it, it asks the hub for a list of programs first.
AGENT = f"steelyard/{__version__}"
REDIRECTS = 5
BUSY = frozenset((408, 429, 500, 502, 503, 504))


class _Lfs(msgspec.Struct):
    sha256: str


class _Sibling(msgspec.Struct):
    """One file of a model as the hub lists it."""

    rfilename: str
    size: int | None = None
    blob_id: str | None = msgspec.field(default=None, name="blobId")
    lfs: _Lfs | None = None


class _Model(msgspec.Struct):
    sha: str
    siblings: list[_Sibling] = []


class HubSource:
    """One model at one revision."""

    def __init__(
        self, uri: str, environment: Mapping[str, str], credential_hosts: CredentialHosts
    ) -> None:
        """Parse the URI; nothing is asked yet.

        Raises:
            FetchError: it has another form, or HF_TOKEN may not be sent to the hub.
        """
        path, _, revision = uri.removeprefix("hf://").partition("@")
        parts = path.strip("/").split("/")
        if len(parts) < 2 or not all(parts):
            raise FetchError(f"the URI must have the form {FORM}, got '{uri}'")
        self.uri = uri
        self._repository = "/".join(parts[:2])
        self._inside = "/".join(parts[2:])
        self._revision = revision or "main"
        self._endpoint = environment.get("HF_ENDPOINT") or constants.ENDPOINT
        self._token = environment.get("HF_TOKEN", "").strip()
        # Said without it: a library's error would show the whole Secret, and the pod's status, too.
        if not (self._token.isascii() and self._token.isprintable()) or " " in self._token:
            raise FetchError("HF_TOKEN must be a token: one line of letters, digits, signs")
        self._host = urlsplit(self._endpoint).netloc or self._endpoint
        self._commit = self._revision
        self._digests: dict[str, Digest] = {}
        self.place = f"{self._endpoint.rstrip('/')}/{path.strip('/')}"
        self._credential_hosts = credential_hosts
        if self._token and not credential_hosts.admits(self._endpoint):
            raise credential_hosts.why_not("HF_TOKEN", self._endpoint)
        # The library's own kind of client, with bounds that it does not set.
        self._client = type(get_session())(
            follow_redirects=True,
            max_redirects=REDIRECTS,
            timeout=TIMEOUT_SECONDS,
            event_hooks={"request": [self._guard]},
        )
        is_commit = len(self._revision) == COMMIT_CHARACTERS and set(self._revision) <= HEXADECIMAL
        self.pinned_version = self._revision if is_commit else None

    def look(self) -> Listing:
        """Ask the hub for the revision's commit and its files."""
        try:
            validate_repo_id(self._repository)
        except HFValidationError:
            raise FetchError(f"the URI must have the form {FORM}, got '{self.uri}'") from None
        url = (
            f"{self._endpoint.rstrip('/')}/api/models/{self._repository}/revision/"
            f"{quote(self._revision, safe='')}"
        )
        try:
            found = msgspec.json.decode(self._small(url), type=_Model)
        except (msgspec.MsgspecError, RecursionError, UnicodeError):
            raise FetchError(
                f"{self._repository} at {self._host} cannot be read: the answer is no hub's"
            ) from None
        except (HTTPError, OSError) as error:
            raise self._translated(error) from None
        if len(found.sha) != COMMIT_CHARACTERS or not set(found.sha) <= HEXADECIMAL:
            raise FetchError(
                f"{self._repository} at {self._host} cannot be read: '{found.sha[:60]}' is none"
            )
        self._commit = found.sha
        offered = [self._file(sibling) for sibling in found.siblings]
        if self._inside.endswith(".gguf"):
            files = [self._only(offered)]
        else:
            files = choose(self.uri, self._below(offered))
        return Listing(self._commit, files)

    def read(self, file: RemoteFile, offset_bytes: int) -> Generator[bytes, None, None]:
        """Read a file of the commit that was listed."""
        url = hf_hub_url(self._repository, file.key, revision=self._commit, endpoint=self._endpoint)
        more = {"Range": f"bytes={offset_bytes}-"} if offset_bytes else {}
        try:
            with self._asked(url, more) as answer:
                # A server that ignores the range begins at the beginning.
                skipped = offset_bytes if answer.status_code == 200 else 0
                for piece in answer.iter_raw():
                    if skipped < len(piece):
                        yield piece[skipped:]
                    skipped = max(0, skipped - len(piece))
        except (HTTPError, OSError) as error:
            raise self._translated(error, file) from None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _small(self, url: str) -> bytes:
        """Return an answer that has at most LISTED_BYTES."""
        found = bytearray()
        with self._asked(url, {}, blobs="True") as answer:
            for piece in answer.iter_raw():
                found += piece
                if len(found) > LISTED_BYTES:
                    raise FetchError(
                        f"{self.uri} cannot be read: {self._host} lists more than "
                        f"{LISTED_BYTES // 1024**2} MiB of files' names"
                    )
        return bytes(found)

    @contextlib.contextmanager
    def _asked(self, url: str, more: Mapping[str, str], **query: str) -> Iterator[Any]:
        """Ask; what is yielded has a good status and is not compressed.

        Raises:
            HTTPError: the hub refuses.
            FetchError: the answer is compressed, which would hide how large it is.
        """
        headers = {"User-Agent": AGENT, "Accept-Encoding": "identity", **more}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        with self._client.stream("GET", url, headers=headers, params=query or None) as answer:
            if answer.status_code not in (200, 206):
                # Status and headers say it; the rest is for people, and may be endless.
                status, names = answer.status_code, answer.headers
                hf_raise_for_status(type(answer)(status, headers=names, request=answer.request))
                raise FetchError(
                    f"{self.uri} cannot be read: {self._host} answered {answer.status_code}"
                )
            packed = answer.headers.get("Content-Encoding", "identity")
            if packed != "identity":
                raise FetchError(
                    f"{self.uri} cannot be read: {self._host} answers with the encoding "
                    f"'{packed[:20]}', though it was asked for none"
                )
            yield answer

    def _guard(self, request: Any) -> None:
        """Hold a request, of a redirect too, to where the token may go."""
        url = str(request.url)
        if "authorization" in request.headers and not self._credential_hosts.admits(url):
            raise self._credential_hosts.why_not("HF_TOKEN", url)
        if self._endpoint.startswith("https://") and request.url.scheme != "https":
            raise FetchError(
                f"{self.uri} cannot be read: {self._host} leads from https:// to plain text"
            )

    def digest(self, file: RemoteFile) -> Digest | None:
        """Return the hub's own digest of a file."""
        return self._digests.get(file.key)

    def _file(self, sibling: _Sibling) -> RemoteFile:
        name = sibling.rfilename
        if sibling.lfs is not None:
            self._digests[name] = Digest("sha256", sibling.lfs.sha256)
        elif sibling.blob_id:
            self._digests[name] = Digest("git", sibling.blob_id)
        digest = self._digests.get(name)
        tag = digest.hexadecimal if digest else self._commit
        size_bytes = -1 if sibling.size is None else sibling.size
        return RemoteFile(name, name, size_bytes, tag)

    def _only(self, offered: list[RemoteFile]) -> RemoteFile:
        for file in offered:
            if file.key == self._inside:
                path = self._inside.rpartition("/")[2]
                check_path(self.uri, path)
                return replace(file, path=path)
        others = sorted(file.key for file in offered if file.key.endswith(".gguf"))
        hint = f"; it has: {', '.join(others[:5])}" if others else ", nor any other GGUF file"
        raise FetchError(
            f"{self._repository} at revision '{self._revision}' has no file '{self._inside}'{hint}"
        )

    def _below(self, offered: list[RemoteFile]) -> Iterator[RemoteFile]:
        prefix = f"{self._inside}/" if self._inside else ""
        for file in offered:
            if file.key.startswith(prefix):
                path = file.key.removeprefix(prefix)
                check_path(self.uri, path)
                yield replace(file, path=path)

    def _translated(
        self, error: Exception, file: RemoteFile | None = None
    ) -> FetchError | BrokenConnectionError:
        """Return what to say or do about the library's error."""
        what = f"{self._repository} at {self._host}"
        status = _status(error)
        if isinstance(error, RevisionNotFoundError):
            return FetchError(
                f"{what} has no revision '{self._revision}'; give a branch, a tag or a commit"
            )
        if isinstance(error, GatedRepoError) or status == 403:
            return FetchError(
                f"{what} may not be read ({status}): its terms must be accepted by the account of "
                "HF_TOKEN, and that token must be allowed to read it"
            )
        if isinstance(error, RepositoryNotFoundError):
            whose = "HF_TOKEN does not open it" if self._token else "it is private: set HF_TOKEN"
            return FetchError(f"{what} is not there ({status}), or {whose}")
        if status == 401:
            return FetchError(f"{self._host} does not accept HF_TOKEN (401); give a valid token")
        if status == 404 and file is not None:
            return FetchError(f"{what} has no file '{file.key}' any more (404)")
        if isinstance(error, HfHubHTTPError) and status not in BUSY:
            return FetchError(f"{what} cannot be read: {self._host} answered {status}")
        return BrokenConnectionError(f"{self._host}: {_first_line(error)}")


def _status(error: Exception) -> int | None:
    answer = getattr(error, "response", None)
    return None if answer is None else int(answer.status_code)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__

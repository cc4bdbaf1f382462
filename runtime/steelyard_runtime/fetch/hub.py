"""hf://: a model of a Hugging Face hub, through `huggingface_hub`.

The library finds the revision, the files and their digests and knows the hub's errors; the bytes
are read here, so that one downloader serves all sources (`download.py`) and checks every file.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from steelyard_runtime.errors import FetchError
from steelyard_runtime.fetch.listing import (
    BrokenConnectionError,
    Digest,
    Listing,
    RemoteFile,
    check_path,
    choose,
)

FORM = "hf://org/name[/file.gguf][@revision]"
COMMIT_CHARACTERS = 40
TIMEOUT_SECONDS = 60.0
BUSY = frozenset((408, 429, 500, 502, 503, 504))


class HubSource:
    """One model at one revision."""

    def __init__(self, uri: str, environment: Mapping[str, str]) -> None:
        """Parse the URI; nothing is asked yet.

        Raises:
            FetchError: it has another form.
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
        self._token = environment.get("HF_TOKEN") or False
        self._host = urlsplit(self._endpoint).netloc or self._endpoint
        self._commit = self._revision
        self._digests: dict[str, Digest] = {}
        self.place = f"{self._host}/{path.strip('/')}"
        is_commit = len(self._revision) == COMMIT_CHARACTERS and set(self._revision) <= set(
            "0123456789abcdef"
        )
        self.pinned_version = self._revision if is_commit else None

    def look(self) -> Listing:
        """Ask the hub for the revision's commit and its files."""
        api = HfApi(endpoint=self._endpoint, token=self._token)
        try:
            found = api.model_info(
                self._repository,
                revision=self._revision,
                files_metadata=True,
                timeout=TIMEOUT_SECONDS,
            )
        except HFValidationError:
            raise FetchError(f"the URI must have the form {FORM}, got '{self.uri}'") from None
        except (HTTPError, OSError) as error:
            raise self._translated(error) from None
        self._commit = str(found.sha)
        offered = [self._file(sibling) for sibling in found.siblings or []]
        if self._inside.endswith(".gguf"):
            files = [self._only(offered)]
        else:
            files = choose(self.uri, self._below(offered))
        return Listing(self._commit, files)

    def read(self, file: RemoteFile, offset_bytes: int) -> Iterator[bytes]:
        """Read a file of the commit that was listed."""
        url = hf_hub_url(self._repository, file.key, revision=self._commit, endpoint=self._endpoint)
        headers = {**build_hf_headers(token=self._token), "Accept-Encoding": "identity"}
        if offset_bytes:
            headers["Range"] = f"bytes={offset_bytes}-"
        try:
            with get_session().stream(
                "GET", url, headers=headers, timeout=TIMEOUT_SECONDS, follow_redirects=True
            ) as answer:
                if answer.status_code >= 400:
                    answer.read()
                hf_raise_for_status(answer)
                # A server that ignores the range begins at the beginning.
                skipped = offset_bytes if answer.status_code == 200 else 0
                for piece in answer.iter_bytes():
                    if skipped < len(piece):
                        yield piece[skipped:]
                    skipped = max(0, skipped - len(piece))
        except (HTTPError, OSError) as error:
            raise self._translated(error, file) from None

    def digest(self, file: RemoteFile) -> Digest | None:
        """Return the hub's own digest of a file."""
        return self._digests.get(file.key)

    def _file(self, sibling: RepoSibling) -> RemoteFile:
        name = sibling.rfilename
        if sibling.lfs is not None:
            self._digests[name] = Digest("sha256", sibling.lfs.sha256)
        elif sibling.blob_id:
            self._digests[name] = Digest("git", sibling.blob_id)
        digest = self._digests.get(name)
        return RemoteFile(
            name, name, sibling.size or 0, digest.hexadecimal if digest else self._commit
        )

    def _only(self, offered: list[RemoteFile]) -> RemoteFile:
        for file in offered:
            if file.key == self._inside:
                return replace(file, path=self._inside.rpartition("/")[2])
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

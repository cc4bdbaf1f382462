"""s3://: a folder or one file of a bucket, through `boto3`.

Endpoint, region, proxies and credentials are found as by every tool of AWS; where there are no
credentials at all the bucket is read without. An object that changes while it is read is noticed.
What the library sends is held to where a signature may go, and what it reads to a size.
"""

import contextlib
import hashlib
import os
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import boto3
from botocore import UNSIGNED
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, ProfileNotFound

from steelyard_runtime.errors import FetchError
from steelyard_runtime.fetch.credential_hosts import CredentialHosts, check_agent
from steelyard_runtime.fetch.listing import (
    BrokenConnectionError,
    Digest,
    Listing,
    RemoteFile,
    choose,
)

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

FORM = "s3://bucket/folder or s3://bucket/path/file.gguf"
PIECE_BYTES = 1024 * 1024
PAGE_BYTES = 8 * 1024 * 1024  # of XML; 1,000 of the longest keys have 4 MiB
PAGES = 1000  # of 1,000 files each, unless an endless listing sends empty ones
MD5_CHARACTERS = 32
VERSION_CHARACTERS = 40
ABSENT = frozenset(("404", "NoSuchKey", "NotFound"))
# Credentials that a machine gives to whatever runs on it, without being asked by the service.
AMBIENT = frozenset(("iam-role",))
BUSY = frozenset((408, 429, 500, 502, 503, 504))
CREDENTIALS = (
    "the credentials (AWS_SHARED_CREDENTIALS_FILE, AWS_ACCESS_KEY_ID or the pod's identity)"
)


class BucketSource:
    """One folder or file."""

    pinned_version: str | None = None

    def __init__(
        self, uri: str, environment: Mapping[str, str], credential_hosts: CredentialHosts
    ) -> None:
        """Parse the URI and set the client up; nothing is asked yet.

        Raises:
            FetchError: it has another form, AWS' variables are wrong, or credentials may not be
                sent to the endpoint.
        """
        bucket, _, path = uri.removeprefix("s3://").partition("/")
        path = path.strip("/")
        if not bucket or not path:
            raise FetchError(f"the URI must have the form {FORM}, got '{uri}'")
        self.uri = uri
        self._bucket = bucket
        self._path = path
        check_agent(environment, credential_hosts)
        self._credential_hosts = credential_hosts
        self._client = _client(uri, bucket, credential_hosts)
        self._client.meta.events.register("before-send.s3", cast("Any", self._send))
        # By key: whether its tag says nothing of the content.
        self._encrypted: dict[str, bool] = {}
        self.place = f"{self._client.meta.endpoint_url}/{bucket}/{path}"

    def look(self) -> Listing:
        """Ask for all objects below the folder, or for the one file."""
        try:
            if self._path.endswith(".gguf"):
                found = self._client.head_object(Bucket=self._bucket, Key=self._path)
                name = self._path.rpartition("/")[2]
                files = [_file(name, self._path, found["ContentLength"], found["ETag"])]
            else:
                files = choose(self.uri, self._objects(f"{self._path}/"))
        except (ClientError, BotoCoreError) as error:
            raise self._translated(error, self._path) from None
        seen = "\n".join(f"{one.path} {one.size_bytes} {one.tag}" for one in files)
        return Listing(hashlib.sha256(seen.encode()).hexdigest()[:VERSION_CHARACTERS], files)

    def _objects(self, prefix: str) -> Iterator[RemoteFile]:
        pages = self._client.get_paginator("list_objects_v2")
        empty = True
        for number, page in enumerate(pages.paginate(Bucket=self._bucket, Prefix=prefix)):
            if number >= PAGES:
                raise FetchError(f"{self.uri} has a listing without an end")
            for each in page.get("Contents", []):
                empty = False
                key = each["Key"]
                if not key.endswith("/"):
                    yield _file(key.removeprefix(prefix), key, each["Size"], each["ETag"])
        if empty:
            raise FetchError(f"the bucket '{self._bucket}' holds nothing below '{prefix}'")

    def read(self, file: RemoteFile, offset_bytes: int) -> Generator[bytes, None, None]:
        """Read an object as it was when it was listed."""
        try:
            answer = self._client.get_object(
                Bucket=self._bucket,
                Key=file.key,
                IfMatch=f'"{file.tag}"',
                Range=f"bytes={offset_bytes}-",
            )
            self._encrypted[file.key] = _is_encrypted(answer)
            with contextlib.closing(answer["Body"]) as body:
                # Not `read`, which waits for a whole piece: a slow source must be noticed.
                raw = cast("Any", body)._raw_stream
                while piece := raw.read1(PIECE_BYTES):
                    yield piece
        except (ClientError, BotoCoreError, OSError) as error:
            raise self._translated(error, file.key) from None

    def digest(self, file: RemoteFile) -> Digest | None:
        """Return the tag where it is one: of an object put in one piece, without a key of KMS."""
        if len(file.tag) != MD5_CHARACTERS:
            return None
        if file.key not in self._encrypted:
            try:
                head = self._client.head_object(Bucket=self._bucket, Key=file.key)
            except (ClientError, BotoCoreError) as error:
                raise self._translated(error, file.key) from None
            self._encrypted[file.key] = _is_encrypted(head)
        return None if self._encrypted[file.key] else Digest("md5", file.tag)

    def _send(self, request: Any, **_: Any) -> AWSResponse:
        """Send a request in the library's place: only where it may go, and with a bounded answer.

        Raises:
            _RefusedError: it may not, or the answer is too large.
        """
        signed = {"Authorization", "X-Amz-Security-Token"} & set(request.headers)
        if signed and not self._credential_hosts.admits_bucket(request.url, self._bucket):
            raise _RefusedError(self._credential_hosts.why_not("credentials", request.url))
        streamed, request.stream_output = request.stream_output, True
        answer: AWSResponse = cast("Any", self._client)._endpoint.http_session.send(request)
        if streamed and answer.status_code < 300:
            return answer
        raw: Any = _Bounded(answer.raw)
        headers = cast("Any", answer.headers)
        return AWSResponse(answer.url, answer.status_code, headers, raw)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _translated(self, error: Exception, key: str) -> FetchError | BrokenConnectionError:
        """Return what to say or do about the library's error."""
        what = f"s3://{self._bucket}/{key}"
        if isinstance(error, _RefusedError):
            return error.reason
        if isinstance(error, NoCredentialsError):
            return FetchError(f"{what} needs {CREDENTIALS}; there are none")
        if not isinstance(error, ClientError):
            return BrokenConnectionError(f"{self._client.meta.endpoint_url}: {error}"[:300])
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code == "NoSuchBucket":
            return FetchError(f"there is no bucket '{self._bucket}' (404)")
        if code in ABSENT:
            return FetchError(f"the bucket '{self._bucket}' has no file '{key}' (404)")
        if status in (401, 403):
            return FetchError(
                f"{what} may not be read ({status} {code}): {CREDENTIALS} must be allowed to list "
                "and get it"
            )
        if status == 412:
            return FetchError(f"{what} changed while it was fetched; fetch it again", passing=True)
        if status in BUSY:
            return BrokenConnectionError(f"{what}: {status} {code}")
        return FetchError(f"{what} cannot be read: {status} {code}")


class _RefusedError(BotoCoreError):
    """What must not be sent or read; of the library's own kind, so that it comes out unchanged."""

    fmt = "refused"

    def __init__(self, reason: FetchError) -> None:
        super().__init__()
        self.reason = reason


class _Bounded:
    """An answer's body that ends with an error where it is larger than any listing."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def stream(self) -> Iterator[bytes]:
        """Yield the body."""
        count_bytes = 0
        while piece := self._raw.read1(PIECE_BYTES):
            count_bytes += len(piece)
            if count_bytes > PAGE_BYTES:
                self._raw.close()
                mebibytes = PAGE_BYTES // 1024**2
                raise _RefusedError(FetchError(f"the bucket answers with over {mebibytes} MiB"))
            yield piece
        self._raw.release_conn()


def _client(uri: str, bucket: str, credential_hosts: CredentialHosts) -> "S3Client":
    general = os.environ.pop("AWS_ENDPOINT_URL", None)
    if general:
        # Tokens are exchanged for credentials at AWS, wherever buckets are.
        os.environ.setdefault("AWS_ENDPOINT_URL_S3", general)
    try:
        session = boto3.session.Session()
        retries = Config(retries={"max_attempts": 3, "mode": "standard"}, read_timeout=60)
        unsigned = retries.merge(Config(signature_version=UNSIGNED))
        region = session.region_name or "us-east-1"
        client: S3Client = session.client("s3", region_name=region, config=unsigned)
        endpoint = client.meta.endpoint_url
        credentials = session.get_credentials()
        if credentials is None:
            return client
        if credential_hosts.admits_bucket(endpoint, bucket):
            client.close()
            signing: S3Client = session.client("s3", region_name=region, config=retries)
            return signing
        if credentials.method in AMBIENT:
            return client
        raise credential_hosts.why_not("credentials", endpoint)
    except ProfileNotFound as error:
        raise FetchError(f"{uri}: AWS_PROFILE must be in the credentials file: {error}") from None
    except (BotoCoreError, ValueError) as error:
        raise FetchError(f"{uri}: AWS' environment variables are wrong: {error}") from None


def _is_encrypted(answer: Any) -> bool:
    """Whether an object is stored under a key that makes its tag no digest of its content."""
    encryption = answer.get("ServerSideEncryption", "")
    return encryption.startswith("aws:kms") or bool(answer.get("SSECustomerAlgorithm"))


def _file(path: str, key: str, size_bytes: int, etag: str) -> RemoteFile:
    return RemoteFile(path, key, size_bytes, etag.strip('"'))

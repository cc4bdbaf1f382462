"""s3://: a folder or one file of a bucket, through `boto3`.

Endpoint, region, proxies and credentials are found as by every tool of AWS; where there are no
credentials at all the bucket is read without. An object that changes while it is read is noticed.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, ProfileNotFound

from steelyard_runtime.errors import FetchError
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
MD5_CHARACTERS = 32
VERSION_CHARACTERS = 40
ABSENT = frozenset(("404", "NoSuchKey", "NotFound"))
BUSY = frozenset((408, 429, 500, 502, 503, 504))
CREDENTIALS = (
    "the credentials (AWS_SHARED_CREDENTIALS_FILE, AWS_ACCESS_KEY_ID or the pod's identity)"
)


class BucketSource:
    """One folder or file."""

    pinned_version: str | None = None

    def __init__(self, uri: str, environment: Mapping[str, str]) -> None:
        """Parse the URI and set the client up; nothing is asked yet.

        Raises:
            FetchError: it has another form, or AWS' variables are wrong.
        """
        bucket, _, path = uri.removeprefix("s3://").partition("/")
        path = path.strip("/")
        if not bucket or not path:
            raise FetchError(f"the URI must have the form {FORM}, got '{uri}'")
        self.uri = uri
        self._bucket = bucket
        self._path = path
        self._client = _client(uri)
        self._encrypted: set[str] = set()  # keys of objects whose tag says nothing of the content
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
        for page in pages.paginate(Bucket=self._bucket, Prefix=prefix):
            for each in page.get("Contents", []):
                empty = False
                key = each["Key"]
                if not key.endswith("/"):
                    yield _file(key.removeprefix(prefix), key, each["Size"], each["ETag"])
        if empty:
            raise FetchError(f"the bucket '{self._bucket}' holds nothing below '{prefix}'")

    def read(self, file: RemoteFile, offset_bytes: int) -> Iterator[bytes]:
        """Read an object as it was when it was listed."""
        try:
            answer = self._client.get_object(
                Bucket=self._bucket,
                Key=file.key,
                IfMatch=f'"{file.tag}"',
                Range=f"bytes={offset_bytes}-",
            )
            encryption = answer.get("ServerSideEncryption", "")
            if encryption.startswith("aws:kms") or answer.get("SSECustomerAlgorithm"):
                self._encrypted.add(file.key)
            with contextlib.closing(answer["Body"]) as body:
                yield from body.iter_chunks(PIECE_BYTES)
        except (ClientError, BotoCoreError, OSError) as error:
            raise self._translated(error, file.key) from None

    def digest(self, file: RemoteFile) -> Digest | None:
        """Return the tag where it is one: of an object put in one piece, without a key of KMS."""
        if len(file.tag) != MD5_CHARACTERS or file.key in self._encrypted:
            return None
        return Digest("md5", file.tag)

    def _translated(self, error: Exception, key: str) -> FetchError | BrokenConnectionError:
        """Return what to say or do about the library's error."""
        what = f"s3://{self._bucket}/{key}"
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


def _client(uri: str) -> "S3Client":
    try:
        session = boto3.session.Session()
        retries = Config(retries={"max_attempts": 3, "mode": "standard"}, read_timeout=60)
        if session.get_credentials() is None:
            retries = retries.merge(Config(signature_version=UNSIGNED))
        region = session.region_name or "us-east-1"
        client: S3Client = session.client("s3", region_name=region, config=retries)
        return client
    except ProfileNotFound as error:
        raise FetchError(f"{uri}: AWS_PROFILE must be in the credentials file: {error}") from None
    except (BotoCoreError, ValueError) as error:
        raise FetchError(f"{uri}: AWS' environment variables are wrong: {error}") from None


def _file(path: str, key: str, size_bytes: int, etag: str) -> RemoteFile:
    return RemoteFile(path, key, size_bytes, etag.strip('"'))

"""Compressed bodies: unpacked as they come, and never further than the limit."""

import zlib

from steelyard_runtime.errors import RequestError

# gzip allows one body in several members; each costs a new decompressor, however short it is.
_MOST_MEMBERS = 16
_GZIP, _ZLIB, _RAW = 31, 15, -15  # window bits as zlib takes them
_SUPPORTED = ("gzip", "x-gzip", "deflate")


class Inflater:
    """One compressed body on its way in."""

    def __init__(self, encoding: str, limit_bytes: int) -> None:
        self._gzip = encoding != "deflate"
        self._limit_bytes = limit_bytes
        self.unpacked_bytes = 0
        self._members = 0
        self._stream: zlib._Decompress | None = None

    def feed(self, data: bytes) -> bytes:
        """Return what `data` unpacks to; costs at most the limit, whatever `data` says.

        Raises:
            RequestError: 413, more than the limit in all; 400, it is no such encoding.
        """
        parts = []
        while data:
            if self._stream is None:
                self._stream = self._begin(data)
            room = self._limit_bytes - self.unpacked_bytes
            try:
                part = self._stream.decompress(data, room + 1)
            except zlib.error:
                raise _damaged() from None
            if len(part) > room:
                raise too_large(self._limit_bytes)
            self.unpacked_bytes += len(part)
            parts.append(part)
            data = self._stream.unconsumed_tail
            if self._stream.eof:
                data = self._stream.unused_data
                self._stream = None
        return b"".join(parts)

    def end(self) -> None:
        """Note that the body is complete.

        Raises:
            RequestError: 400, it was cut off.
        """
        if self._stream is not None:
            raise _damaged()

    def _begin(self, data: bytes) -> "zlib._Decompress":
        self._members += 1
        if self._members > (_MOST_MEMBERS if self._gzip else 1):
            raise _damaged()
        if self._gzip:
            return zlib.decompressobj(_GZIP)
        # Some clients send deflate without zlib's header, whose first byte ends in 8.
        return zlib.decompressobj(_ZLIB if data[0] & 0xF == 8 else _RAW)


def inflater_for(encodings: list[str], limit_bytes: int) -> Inflater | None:
    """Return what unpacks a body of these `Content-Encoding` headers; None where it is plain.

    Raises:
        RequestError: 415, an encoding that is not read here, or several.
    """
    given = ",".join(encodings)
    names = [name for part in given.split(",") if (name := part.strip().lower()) != ""]
    names = [name for name in names if name != "identity"]
    if not names:
        return None
    if len(names) > 1 or names[0] not in _SUPPORTED:
        raise RequestError(
            f"The body's Content-Encoding must be one of gzip, deflate and identity, got "
            f"{given[:64]!a}.",
            status=415,
            code="unsupported_encoding",
        )
    return Inflater(names[0], limit_bytes)


def too_large(limit_bytes: int) -> RequestError:
    """Return the refusal of a body that is larger than the limit, as sent or unpacked."""
    return RequestError(
        f"The body may not be larger than {limit_bytes} bytes.", status=413, code="body_too_large"
    )


def _damaged() -> RequestError:
    return RequestError("The body is not what its Content-Encoding says.", code="invalid_encoding")

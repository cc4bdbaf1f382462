"""Answers to aiohttp's client, read up to a limit: who answers may send without end."""

import aiohttp


async def read_bounded(answer: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """Return the body.

    Raises:
        ValueError: it is larger than `most_bytes`.
        aiohttp.ClientError: the connection broke.
    """
    parts, left_bytes = [], most_bytes
    async for part in answer.content.iter_any():
        left_bytes -= len(part)
        if left_bytes < 0:
            answer.close()
            raise ValueError(f"an answer of more than {most_bytes} bytes")
        parts.append(part)
    return b"".join(parts)

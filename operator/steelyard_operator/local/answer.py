"""Ask the running service one question: stream the answer, measure it, count what it costs."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from steelyard_operator.errors import OperatorError, UserError
from steelyard_operator.local.http_client import HttpError, Response, request


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer and when its parts arrived, in seconds since the request was sent."""

    text: str
    first_token_seconds: float
    last_token_seconds: float
    wall_seconds: float
    prompt_tokens: int
    completion_tokens: int

    @property
    def tpot_seconds(self) -> float | None:
        """Time per output token after the first; None for a single token."""
        if self.completion_tokens < 2:
            return None
        return (self.last_token_seconds - self.first_token_seconds) / (self.completion_tokens - 1)

    @property
    def tokens_per_second(self) -> float:
        """Output tokens over the whole time of the request."""
        return self.completion_tokens / self.wall_seconds


async def ask(
    url: str,
    *,
    model: str,
    prompt: str,
    max_tokens: int,
    on_text: Callable[[str], None],
    clock: Callable[[], float],
) -> Answer:
    """Send a prompt as a chat message and return the answer; greedy, so that it can be repeated.

    Args:
        url: the service's address.
        model: the served name.
        prompt: the user's message.
        max_tokens: longest answer.
        on_text: gets each piece of text as it arrives.
        clock: monotonic seconds.

    Raises:
        UserError: the service refuses the request.
        OperatorError: the service failed.
    """
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    pieces: list[str] = []
    first = last = None
    complete = False
    usage: dict[str, int] = {}
    start = clock()
    try:
        async with request("POST", f"{url}/v1/chat/completions", body=body) as response:
            if response.status != 200:
                raise await _refusal(response)
            async for line in response.lines():
                if not line.startswith("data: "):
                    continue
                if line == "data: [DONE]":
                    complete = True
                    break
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    raise OperatorError(f"the answer broke off: {event['error']['message']}")
                usage = event.get("usage") or usage
                text = _text(event)
                if text:
                    last = clock() - start
                    first = last if first is None else first
                    pieces.append(text)
                    on_text(text)
    except HttpError as error:
        raise OperatorError(f"the answer broke off: {error}") from None
    wall = clock() - start
    if not complete:
        raise OperatorError("the answer broke off: the stream ended early")
    return Answer(
        text="".join(pieces),
        first_token_seconds=wall if first is None else first,
        last_token_seconds=wall if last is None else last,
        wall_seconds=wall,
        prompt_tokens=usage.get("prompt_tokens", 0),
        completion_tokens=usage.get("completion_tokens", 0),
    )


def _text(event: dict[str, Any]) -> str:
    choices = event.get("choices") or [{}]
    return (choices[0].get("delta") or {}).get("content") or ""


async def _refusal(response: Response) -> OperatorError:
    content = await response.read()
    try:
        message = json.loads(content)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = content.decode("utf-8", "replace")[:200]
    if response.status < 500:
        return UserError(f"the service refused the prompt: {message}")
    return OperatorError(f"the service answered {response.status}: {message}")

"""A fake worker's answer to one completion request: chunks of a stream, or the whole."""

from collections.abc import Iterator
from typing import Any

from steelyard_runtime.testing.fake_text import FakeText, prompt_token_ids


class FakeAnswer:
    """One request's answer, as events or as a whole."""

    def __init__(
        self,
        body: dict[str, Any],
        *,
        chat: bool,
        name: str,
        token_ids: bool,
        tokens_per_event: int,
    ) -> None:
        self._body = body
        self._tokens_per_event = tokens_per_event
        self._chat = chat
        self._wants_ids = bool(body.get("return_token_ids")) and token_ids
        self._resumed = (body.get("steelyard") or {}).get("resume_token_ids", [])
        self._length = body.get("max_completion_tokens") or body.get("max_tokens") or 16
        self._texts = [FakeText.of(body, choice) for choice in range(body.get("n") or 1)]
        self._prompt = prompt_token_ids(body)
        known = [self._texts[0].token(position) for position in range(len(self._resumed))]
        assert self._resumed == known, "the router resumes with tokens that were never made"
        self._identity = {
            "id": f"cmpl-{name}",
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": sum(name.encode()),
            "model": body.get("model", "fake"),
        }

    def events(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield the chunks and how many tokens each of them brings."""
        if self._chat:
            for index in range(len(self._texts)):
                delta = {"role": "assistant", "content": ""}
                event = self._chunk({"index": index, "delta": delta, "finish_reason": None})
                if self._wants_ids:
                    event["prompt_token_ids"] = self._prompt
                yield event, 0
        start = len(self._resumed)
        step = self._tokens_per_event
        for position in range(start, self._length, step):
            upto = min(position + step, self._length)
            for index in range(len(self._texts)):
                yield self._tokens(index, position, upto), upto - position
        if (self._body.get("stream_options") or {}).get("include_usage"):
            yield {**self._identity, "choices": [], "usage": self._usage()}, 0

    def document(self) -> dict[str, Any]:
        """Return the whole answer."""
        choices = []
        for index in range(len(self._texts)):
            text = self._text(index, 0, self._length)
            content: dict[str, Any] = {"text": text}
            if self._chat:
                content = {"message": {"role": "assistant", "content": text}}
            choices.append({"index": index, **content, "finish_reason": "length"})
        return {
            **self._identity,
            "choices": choices,
            "usage": self._usage(),
            "kv_transfer_params": None,
        }

    def _tokens(self, index: int, start: int, end: int) -> dict[str, Any]:
        last = end == self._length
        text = self._text(index, start, end)
        choice: dict[str, Any] = {"index": index, "finish_reason": "length" if last else None}
        if self._chat:
            choice["delta"] = {"content": text}
        else:
            choice["text"] = text
            if self._wants_ids and start == 0:
                choice["prompt_token_ids"] = self._prompt
        if self._wants_ids:
            choice["token_ids"] = [self._texts[index].token(one) for one in range(start, end)]
        return self._chunk(choice)

    def _text(self, index: int, start: int, end: int) -> str:
        source = self._texts[index]
        return "".join(source.text(one, last=one == self._length - 1) for one in range(start, end))

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        return {**self._identity, "choices": [choice]}

    def _usage(self) -> dict[str, Any]:
        made = self._length * len(self._texts)
        return {
            "prompt_tokens": len(self._prompt),
            "completion_tokens": made,
            "total_tokens": len(self._prompt) + made,
            "prompt_tokens_details": {"cached_tokens": 0},
        }

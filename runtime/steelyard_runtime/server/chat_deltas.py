"""One chat choice's text as OpenAI's deltas: content, reasoning, tool calls."""

from typing import Any

from steelyard_runtime.tokenization.parsers.base import OutputParser, ParsedDelta, PartsCollector


class ChoiceDeltas:
    """Deltas of one choice; with no parser all text is content."""

    __slots__ = ("_calls_are_asked_for", "_collector", "_has_calls", "_parser")

    def __init__(self, parser: OutputParser | None, *, calls_are_asked_for: bool = False) -> None:
        """Take the choice's parser.

        Args:
            parser: a fresh one.
            calls_are_asked_for: a named `tool_choice`, which ends with "stop" as OpenAI's does.
        """
        self._parser = parser
        self._calls_are_asked_for = calls_are_asked_for
        self._has_calls = False
        self._collector = PartsCollector()

    def resume(self, text: str) -> None:
        """Take text that the client has already got."""
        self._parse(text, final=False)

    def push(self, text: str, *, final: bool) -> dict[str, Any]:
        """Return the delta that new text brings; empty where it is held back."""
        if self._parser is None:
            return {"content": text} if text else {}
        parsed = self._parse(text, final=final)
        delta: dict[str, Any] = {}
        if parsed.reasoning:
            delta["reasoning_content"] = parsed.reasoning
        if parsed.content:
            delta["content"] = parsed.content
        if parsed.tool_calls:
            delta["tool_calls"] = _merged(parsed)
        return delta

    def collect(self, text: str, *, final: bool) -> None:
        """Keep new text for `message`."""
        self._collector.add(self._parse(text, final=final))

    def finish_reason(self, reason: str | None) -> str | None:
        """Return the finish reason in chat's terms."""
        called = self._has_calls and not self._calls_are_asked_for
        return "tool_calls" if reason == "stop" and called else reason

    def message(self) -> dict[str, Any]:
        """Return the whole message."""
        parts = self._collector.result()
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if parts.tool_calls and not parts.content else parts.content,
            "refusal": None,
        }
        if parts.reasoning:
            message["reasoning_content"] = parts.reasoning
        if parts.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in parts.tool_calls
            ]
        return message

    def _parse(self, text: str, *, final: bool) -> ParsedDelta:
        if self._parser is None:
            return ParsedDelta(content=text)
        parsed = self._parser.push(text)
        if final:
            rest = self._parser.finish()
            parsed = ParsedDelta(
                parsed.content + rest.content,
                parsed.reasoning + rest.reasoning,
                parsed.tool_calls + rest.tool_calls,
            )
        if parsed.tool_calls:
            self._has_calls = True
        return parsed


def _merged(parsed: ParsedDelta) -> list[dict[str, Any]]:
    """Return one entry a call: its head and its arguments' text together."""
    entries: dict[int, dict[str, Any]] = {}
    for part in parsed.tool_calls:
        entry = entries.setdefault(part.index, {"index": part.index, "function": {}})
        if part.name is not None:
            entry.update(id=part.id, type="function")
            entry["function"]["name"] = part.name
        entry["function"]["arguments"] = entry["function"].get("arguments", "") + part.arguments
    return list(entries.values())

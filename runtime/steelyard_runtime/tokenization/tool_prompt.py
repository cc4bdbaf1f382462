"""Tools as text, for templates that know none.

The form is that of the Hermes models, which Qwen uses too and `parsers/hermes.py` reads back.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

CALL_START = "<tool_call>"
CALL_END = "</tool_call>"

_DESCRIPTION = """# Tools

You may call one or more functions to answer. Their signatures are within <tools></tools>:
<tools>
{tools}
</tools>

To call a function, write a JSON object with its name and arguments within \
<tool_call></tool_call>:
<tool_call>
{{"name": <function name>, "arguments": <object of arguments>}}
</tool_call>"""


def description_text(tools: Sequence[Mapping[str, Any]]) -> str:
    """Return the system text that describes the tools and how to call them."""
    return _DESCRIPTION.format(tools="\n".join(_json(tool) for tool in tools))


def calls_text(content: str, calls: Sequence[Mapping[str, Any]]) -> str:
    """Return an assistant's turn: its text, then each call."""
    texts = [f"{CALL_START}\n{_json(call['function'])}\n{CALL_END}" for call in calls]
    return "\n".join([content, *texts] if content else texts)


def response_text(content: str) -> str:
    """Return what a tool answered, as a part of a user's turn."""
    return f"<tool_response>\n{content}\n</tool_response>"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)

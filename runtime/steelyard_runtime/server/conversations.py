"""A conversation as the token ids of one prompt; `/tokenize` and chat completions share it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from steelyard_runtime.server.model_text import ModelText
from steelyard_runtime.server.protocol.chat import Message, Tool


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as text and as ids."""

    text: str
    token_ids: list[int]


async def render_conversation(
    text: ModelText,
    messages: Sequence[Message],
    *,
    tools: Sequence[Tool] | None,
    add_generation_prompt: bool | None,
    continue_final_message: bool | None,
    variables: dict[str, Any] | None,
) -> Rendered:
    """Return the prompt of a conversation.

    Raises:
        RequestError: the template refuses it, or it is too long.
    """
    continues = bool(continue_final_message)
    opens = not continues if add_generation_prompt is None else add_generation_prompt
    prompt = await text.render(
        messages,
        tools=tools or None,
        add_generation_prompt=opens,
        continue_final_message=continues,
        variables=variables,
    )
    ids = await text.encode(prompt, add_special_tokens=False, param="messages")
    return Rendered(prompt, ids)

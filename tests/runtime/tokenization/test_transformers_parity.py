"""Prompts and texts equal those of transformers, which templates are written for."""

import json
from typing import Any

import pytest

from steelyard_runtime.tokenization.chat_template import ChatTemplate
from steelyard_runtime.tokenization.tokenizer import Tokenizer

pytestmark = pytest.mark.model

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"é": [1, None]}}}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one turn": [{"role": "user", "content": "Hi <there> & “you”"}],
    "system": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": " Hi \n"}],
    "several turns": [
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "3"},
    ],
}
TOOL_CONVERSATION = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "5"},
]
# What families of models do in their templates: trimming, blocks, macros, namespaces, loop tests.
TOOL_TEMPLATE = """
{%- macro render(message) %}
    {%- if message.role == 'tool' %}
[tool] {{ message.content | trim }}
    {%- elif message.tool_calls %}
        {%- for call in message.tool_calls %}
[call] {{ {"name": call.function.name, "arguments": call.function.arguments} | tojson }}
        {%- endfor %}
    {%- else %}
[{{ message['role'] }}] {{ message.content }}
    {%- endif %}
{%- endmacro %}
{%- set ns = namespace(count=0) %}
{{- bos_token }}
{%- if tools %}
    {%- for tool in tools %}
{{ tool | tojson(indent=2) }}
    {%- endfor %}
{%- endif %}
{% for message in messages %}
    {% if loop.first and message.role == 'system' %}
        {% continue %}
    {% endif %}
    {% set ns.count = ns.count + 1 %}
    {% generation %}
{{ render(message) }}
    {% endgeneration %}
{% endfor %}
{{ ns.count }}{% if add_generation_prompt %}[assistant]{% endif %}
"""


def compiled(tokenizer: Tokenizer) -> ChatTemplate:
    return ChatTemplate(tokenizer.chat_templates, tokenizer.special_tokens)


@pytest.fixture(scope="module")
def transformers_tokenizer(smollm2: Tokenizer) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=smollm2.backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture(scope="module", params=["the model's", "with tools"])
def source(request: pytest.FixtureRequest, smollm2: Tokenizer) -> str:
    return smollm2.chat_templates["default"] if request.param == "the model's" else TOOL_TEMPLATE


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("ending", ["prompt", "nothing", "continued"])
def test_prompts_equal(
    name: str, ending: str, source: str, smollm2: Tokenizer, transformers_tokenizer: Any
) -> None:
    """Every ending of the prompt is the same text."""
    arguments = {
        "add_generation_prompt": ending == "prompt",
        "continue_final_message": ending == "continued",
    }
    ours = compiled(with_template(smollm2, source)).render(CONVERSATIONS[name], **arguments)
    theirs = transformers_tokenizer.apply_chat_template(
        CONVERSATIONS[name], chat_template=source, tokenize=False, **arguments
    )
    assert ours == theirs


def test_prompts_with_tools_equal(smollm2: Tokenizer, transformers_tokenizer: Any) -> None:
    """A template that knows tools gets what transformers gives it; arguments arrive as text."""
    call = {**CALL, "function": {"name": "f", "arguments": json.dumps({"é": [1, None]})}}
    messages = [{**message} for message in TOOL_CONVERSATION]
    messages[1]["tool_calls"] = [call]
    ours = compiled(with_template(smollm2, TOOL_TEMPLATE)).render(messages, tools=TOOLS)
    theirs = transformers_tokenizer.apply_chat_template(
        TOOL_CONVERSATION,
        chat_template=TOOL_TEMPLATE,
        tools=TOOLS,
        tokenize=False,
        add_generation_prompt=True,
    )
    assert ours == theirs


@pytest.mark.parametrize("skip", [True, False])
def test_decoded_text_equals(skip: bool, smollm2: Tokenizer, transformers_tokenizer: Any) -> None:
    """Ids in any order, half characters and special tokens included, are the same text."""
    ids = [(i * 7919) % smollm2.vocab_size for i in range(4000)]
    theirs = transformers_tokenizer.decode(ids, skip_special_tokens=skip)
    assert smollm2.decode(ids, skip_special_tokens=skip) == theirs


def with_template(tokenizer: Tokenizer, source: str) -> Tokenizer:
    return Tokenizer(
        tokenizer.backend,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_ids=tokenizer.eos_token_ids,
        chat_templates={"default": source},
    )

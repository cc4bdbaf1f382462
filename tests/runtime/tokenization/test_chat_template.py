"""Messages become the prompt that the model's template makes of them."""

from datetime import UTC, datetime
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from steelyard_runtime.errors import CheckpointError, RequestError
from steelyard_runtime.tokenization.chat_template import ChatTemplate
from steelyard_runtime.tokenization.tokenizer import Tokenizer

# Of the kind that most models have: text content, any role.
SIMPLE = (
    "{% for m in messages %}[{{ m['role'] }}:{{ m['content'] }}]{% endfor %}"
    "{% if add_generation_prompt %}[assistant:{% endif %}"
)
# Of the kind that wants lists of parts.
PARTS = (
    "{% for m in messages %}[{{ m.role }}:{% for c in m.content %}{{ c.text }}{% endfor %}]"
    "{% endfor %}"
)
WITH_TOOLS = (
    "{% if tools %}<{{ tools | tojson }}>{% endif %}{% for m in messages %}[{{ m.role }}:"
    "{{ m.content }}{% for c in m.tool_calls %}{{ c.function.arguments | tojson }}{% endfor %}]"
    "{% if m.role == 'tool' %}!{% endif %}{% endfor %}"
)
TOOL = {"type": "function", "function": {"name": "f", "description": "<é>"}}
CALLS = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]


def template(source: str, **templates: str) -> ChatTemplate:
    backend = Backend(models.BPE({"<s>": 0, "</s>": 1}, []))
    backend.decoder = decoders.ByteLevel()
    tokenizer = Tokenizer(
        backend,
        bos_token_id=0,
        eos_token_ids=(1,),
        chat_templates={"default": source, **templates},
    )
    return ChatTemplate(
        tokenizer.chat_templates,
        tokenizer.special_tokens,
        now=lambda: datetime(2026, 11, 23, tzinfo=UTC),
    )


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ unk_token }}", "<s>hi</s>"),
        ("  {% if true %}\n x\n  {% endif %}\n", " x\n"),
        ("{{ strftime_now('%d %b %Y') }}", "23 Nov 2026"),
        ("{{ {'b': '<é>', 'a': 1} | tojson }}", '{"b": "<é>", "a": 1}'),
        ("{{ [1] | tojson(indent=1) }}", "[\n 1\n]"),
        ("{% generation %}{{ 'x' }}{% endgeneration %}", "x"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% set ns = namespace(n=1) %}{% set ns.n = 2 %}{{ ns.n }}", "2"),
        ("{{ documents[0].text }}", "doc"),
        ("{{ enable_thinking }}", "False"),
    ],
)
def test_what_templates_may_use(source: str, expected: str) -> None:
    """The environment has what templates for transformers are written against."""
    rendered = template(source).render(
        user("hi"), documents=[{"text": "doc"}], variables={"enable_thinking": False}
    )
    assert rendered == expected


@pytest.mark.parametrize("source", [SIMPLE, PARTS])
@pytest.mark.parametrize(
    "content",
    [
        "a\nb",
        [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        ["a", {"type": "text", "text": "b"}],
    ],
)
def test_content_takes_the_templates_form(source: str, content: Any) -> None:
    """Text and lists of parts both reach templates that want the one or the other."""
    assert template(source).render(user(content), add_generation_prompt=False) == "[user:a\nb]"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (SIMPLE, "[system:x]"),
        (SIMPLE + "{# developer #}", "[developer:x]"),
    ],
)
def test_developer_role(source: str, expected: str) -> None:
    """The developer is the system where the template does not know the role."""
    messages = [{"role": "developer", "content": "x"}]
    assert template(source).render(messages, add_generation_prompt=False) == expected


@pytest.mark.parametrize("given", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("read", ["reasoning_content", "thinking"])
def test_earlier_reasoning_goes_by_any_name(given: str, read: str) -> None:
    """Clients and templates that name an earlier turn's reasoning differently understand it."""
    messages = [{"role": "assistant", "content": "x", given: "Hm."}]
    assert template(f"{{{{ messages[0].{read} }}}}").render(messages) == "Hm."


def test_generation_prompt() -> None:
    """The assistant's turn is opened unless told otherwise."""
    assert template(SIMPLE).render(user("a")) == "[user:a][assistant:"
    assert template(SIMPLE).render(user("a"), add_generation_prompt=False) == "[user:a]"


@pytest.mark.parametrize(
    ("source", "content", "expected"),
    [
        (SIMPLE, "I am ", "[user:a][assistant:I am "),
        (SIMPLE.replace("m['content']", "m['content'] | trim"), "I am ", "[user:a][assistant:I am"),
        (PARTS, "I am ", "[user:a][assistant:I am "),
    ],
)
def test_the_last_message_can_be_continued(source: str, content: str, expected: str) -> None:
    """The prompt ends where the last message ends, as the template wrote it."""
    messages = [*user("a"), {"role": "assistant", "content": content}]
    rendered = template(source).render(
        messages, add_generation_prompt=False, continue_final_message=True
    )
    assert rendered == expected


def test_tools_go_to_a_template_that_knows_them() -> None:
    """Such a template gets the tools, calls with arguments as objects, and tool messages."""
    messages = [
        *user("a"),
        {"role": "assistant", "content": None, "tool_calls": CALLS},
        {"role": "tool", "content": "5", "tool_call_id": "1"},
    ]
    rendered = template(WITH_TOOLS).render(messages, tools=[TOOL])
    tools = '[{"type": "function", "function": {"name": "f", "description": "<é>"}}]'
    assert rendered == f'<{tools}>[user:a][assistant:{{"a": 1}}][tool:5]!'


def test_tools_are_text_where_the_template_knows_none() -> None:
    """Such a template gets a description, calls and responses as text, in the Hermes form."""
    messages = [
        {"role": "system", "content": "Be kind."},
        *user("a"),
        {"role": "assistant", "content": "Wait.", "tool_calls": CALLS},
        {"role": "tool", "content": "5"},
        {"role": "tool", "content": "6"},
    ]
    rendered = template(SIMPLE).render(messages, tools=[TOOL], add_generation_prompt=False)
    description, _, rest = rendered.partition("][user:")
    assert description.startswith("[system:Be kind.\n\n# Tools")
    assert '<tools>\n{"type": "function", "function": {"name": "f", "desc' in description
    assert rest == (
        'a][assistant:Wait.\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>]'
        "[user:<tool_response>\n5\n</tool_response>\n<tool_response>\n6\n</tool_response>]"
    )


def test_tools_without_a_system_message_make_one() -> None:
    """The description stands in a system message of its own."""
    rendered = template(SIMPLE).render(user("a"), tools=[TOOL])
    assert rendered.startswith("[system:# Tools")


def test_the_template_for_tools_is_used_with_tools() -> None:
    """A checkpoint's `tool_use` template renders requests with tools, `default` the others."""
    both = template("D", tool_use="T{{ tools | length }}")
    assert both.render(user("a")) == "D"
    assert both.render(user("a"), tools=[TOOL]) == "T1"


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ([{"content": "x"}], "messages[0].role"),
        (user({"a": 1}), "messages[0].content"),
        (user([{"type": "image_url", "image_url": {}}]), "messages[0].content[0].type"),
        (user([{"text": "x"}]), "messages[0].content[0].type"),
        (user([{"type": "text"}]), "messages[0].content[0].text"),
        (user([5]), "messages[0].content[0].type"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {}}]}],
            "messages[0].tool_calls[0].function",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "["}}]}],
            "messages[0].tool_calls[0].function.arguments",
        ),
        ([{"role": "assistant", "tool_calls": "x"}], "messages[0].tool_calls"),
    ],
)
def test_damaged_messages_name_their_field(messages: list[dict[str, Any]], param: str) -> None:
    """A message that cannot be read is a 400 that names the field."""
    with pytest.raises(RequestError) as raised:
        template(SIMPLE).render(messages)
    assert (raised.value.status, raised.value.param) == (400, param)
    assert str(raised.value).startswith(param)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('Roles must alternate.') }}", "Roles must alternate."),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages[7].content }}", "has no element 7"),
        ("{{ messages.append(1) }}", "is unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "calls itself without end"),
    ],
)
def test_a_template_that_refuses_is_a_bad_request(source: str, reason: str) -> None:
    """Whatever a template raises is one sentence for the client."""
    with pytest.raises(RequestError) as raised:
        template(source).render(user("hi"))
    assert (raised.value.status, raised.value.param) == (400, "messages")
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"continue_final_message": True}, "continue_final_message"),
        ({"variables": {"tools": []}}, "chat_template_kwargs"),
    ],
)
def test_arguments_that_exclude_each_other(arguments: dict[str, Any], param: str) -> None:
    """Contradicting arguments are a 400 that names the field."""
    with pytest.raises(RequestError) as raised:
        template(SIMPLE).render(user("hi"), **arguments)
    assert (raised.value.status, raised.value.param) == (400, param)


def test_a_message_that_the_template_hides_cannot_be_continued() -> None:
    """There is no place in the prompt where it would go on."""
    with pytest.raises(RequestError, match="does not show the last message"):
        template("x").render(user("a"), add_generation_prompt=False, continue_final_message=True)


def test_a_model_without_a_template_says_so(byte_tokenizer: Tokenizer) -> None:
    """The error names the ways out."""
    with pytest.raises(RequestError, match=r"no chat template; use /v1/completions"):
        ChatTemplate(byte_tokenizer.chat_templates, byte_tokenizer.special_tokens).render(user("a"))


def test_a_syntax_error_stops_the_start() -> None:
    """A damaged template is found when the worker starts, with its line."""
    with pytest.raises(CheckpointError, match="chat template 'default', line 2: "):
        template("x\n{% if %}")

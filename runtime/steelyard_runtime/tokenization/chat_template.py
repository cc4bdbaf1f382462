"""Renders chat messages to a prompt with the model's jinja2 template.

The environment is that of transformers (`apply_chat_template`): the immutable sandbox with the
same filters and functions, because templates are written against it. Templates come with the
checkpoint or from the operator's flag, never from a request.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from steelyard_runtime.errors import CheckpointError, RequestError
from steelyard_runtime.tokenization.messages import TemplateTraits, normalize_messages

# Marks where a message that is to be continued ends; the space shows whether it was trimmed.
_CONTINUE_MARK = "STEELYARD_CONTINUES_HERE "
_RESERVED = ("messages", "tools", "documents", "add_generation_prompt")


class ChatTemplate:
    """The chat templates of one model, compiled once."""

    def __init__(
        self,
        sources: Mapping[str, str],
        special_tokens: Mapping[str, str],
        *,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """Compile the templates.

        Args:
            sources: by name, `default` among them where there are any.
            special_tokens: `Tokenizer.special_tokens`.
            now: what `strftime_now` shows.

        Raises:
            CheckpointError: a template has a syntax error.
        """
        environment = _environment(now)
        self._templates = {
            name: _Compiled(environment, name, source) for name, source in sources.items()
        }
        self._special = dict(special_tokens)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
        max_characters: int | None = None,
    ) -> str:
        """Return the prompt, to be encoded without adding special tokens.

        Args:
            messages: in OpenAI's form.
            tools: in OpenAI's form; None or empty where the model shall not see any.
            documents: for templates of retrieval models.
            add_generation_prompt: open the assistant's turn.
            continue_final_message: leave the last message's turn open; excludes the former.
            variables: `chat_template_kwargs`, further names that the template sees.
            max_characters: a longer prompt is refused while it is made.

        Raises:
            RequestError: the messages are damaged, or the template refuses them (400).
        """
        if not messages:
            raise RequestError("messages: is empty; must have at least one", param="messages")
        if continue_final_message and add_generation_prompt:
            raise RequestError(
                "continue_final_message: is true and so is add_generation_prompt; only one can be",
                param="continue_final_message",
            )
        taken = next((name for name in _RESERVED if name in (variables or {})), None)
        if taken is not None:
            raise RequestError(
                f"chat_template_kwargs.{taken}: is a field of its own and cannot be set here",
                param="chat_template_kwargs",
            )
        template = self._choose(bool(tools))
        normal = normalize_messages(messages, template.traits, tools)
        if continue_final_message:
            _mark(normal[-1])
        text = template.render(
            {
                **self._special,
                **(variables or {}),
                "messages": normal,
                "tools": list(tools) if tools else None,
                "documents": documents,
                "add_generation_prompt": add_generation_prompt,
            },
            max_characters,
        )
        return _cut_at_mark(text) if continue_final_message else text

    def _choose(self, with_tools: bool) -> "_Compiled":
        name = "tool_use" if with_tools and "tool_use" in self._templates else "default"
        if name not in self._templates:
            raise RequestError(
                "messages: the model has no chat template; use /v1/completions, or start the "
                "worker with --chat-template",
                param="messages",
            )
        return self._templates[name]


class _Compiled:
    """One template and what it can do."""

    def __init__(self, environment: jinja2.Environment, name: str, source: str) -> None:
        try:
            self._template = environment.from_string(source)
            variables = jinja2.meta.find_undeclared_variables(environment.parse(source))
        except jinja2.TemplateSyntaxError as error:
            raise CheckpointError(
                f"chat template '{name}', line {error.lineno}: {error.message}"
            ) from None
        self.traits = TemplateTraits(
            content_parts=self._wants_parts(),
            developer_role="developer" in source,
            tools="tools" in variables,
            tool_calls="tool_calls" in source,
            tool_role="'tool'" in source or '"tool"' in source,
        )

    def render(self, values: Mapping[str, Any], max_characters: int | None) -> str:
        pieces: list[str] = []
        size = 0
        try:
            for piece in self._template.generate(values):
                pieces.append(piece)
                size += len(piece)
                if max_characters is not None and size > max_characters:
                    break
            else:
                return "".join(pieces)
            raise RequestError(
                f"`messages` become more than {max_characters} characters, more than the model's "
                "length can hold",
                param="messages",
                code="context_length_exceeded",
            )
        except (RequestError, MemoryError):
            raise
        except RecursionError:
            reason = "it calls itself without end"
        except Exception as error:  # A template may raise whatever its expressions do.
            reason = str(error).partition("\n")[0] or type(error).__name__
        raise RequestError(f"messages: the chat template refused them: {reason}", param="messages")

    def _wants_parts(self) -> bool:
        """Whether text is shown only when it comes as a list of parts; found out by trying."""

        def shows(content: Any) -> bool:
            message = {"role": "user", "content": content}
            try:
                return "needle" in self._template.render(
                    messages=[message], add_generation_prompt=True
                )
            except MemoryError:
                raise
            except Exception:  # What it cannot render it does not show.
                return False

        return not shows("needle") and shows([{"type": "text", "text": "needle"}])


def _mark(message: dict[str, Any]) -> None:
    content = message["content"]
    if isinstance(content, list):
        content[-1]["text"] += _CONTINUE_MARK
    else:
        message["content"] = content + _CONTINUE_MARK


def _cut_at_mark(text: str) -> str:
    at = text.rfind(_CONTINUE_MARK.rstrip())
    if at < 0:
        raise RequestError(
            "continue_final_message: the chat template does not show the last message",
            param="continue_final_message",
        )
    # A template that trimmed the mark's space trims the message's own spaces too.
    kept = text[at:].startswith(_CONTINUE_MARK)
    return text[:at] if kept else text[:at].rstrip()


def _environment(now: Callable[[], datetime]) -> jinja2.Environment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )

    def strftime_now(layout: str) -> str:
        return now().strftime(layout)

    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter escapes HTML and sorts keys.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks training targets in some templates; here it is transparent."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)

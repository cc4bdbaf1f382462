"""Which parsers there are, by the names of `--tool-call-parser` and `--reasoning-parser`."""

from collections.abc import Callable

from steelyard_runtime.errors import ConfigError
from steelyard_runtime.tokenization.parsers.base import CallIds, OutputParser
from steelyard_runtime.tokenization.parsers.guided import CallListParser, NamedCallParser
from steelyard_runtime.tokenization.parsers.hermes import HermesParser
from steelyard_runtime.tokenization.parsers.plain import PlainParser
from steelyard_runtime.tokenization.parsers.reasoning import THINK_START, ThinkParser

TOOL_CALL_PARSERS: dict[str, Callable[[CallIds], OutputParser]] = {"hermes": HermesParser}
# The value: whether the model reasons also where neither prompt nor answer has an opening tag.
REASONING_PARSERS: dict[str, bool] = {"deepseek_r1": True, "qwen3": False}


def check_parser_names(tool_call_parser: str | None, reasoning_parser: str | None) -> None:
    """Refuse unknown names, at the start of a worker.

    Raises:
        ConfigError: a name is unknown; the message lists the known ones.
    """
    for flag, name, known in (
        ("--tool-call-parser", tool_call_parser, TOOL_CALL_PARSERS),
        ("--reasoning-parser", reasoning_parser, REASONING_PARSERS),
    ):
        if name is not None and name not in known:
            raise ConfigError(f"{flag}: is {name!r}; must be one of: {', '.join(sorted(known))}")


def tool_call_parser(name: str, call_ids: CallIds) -> OutputParser:
    """Return a parser for answers in which the model may call tools."""
    return TOOL_CALL_PARSERS[name](call_ids)


def guided_call_parser(function: str | None, call_ids: CallIds) -> OutputParser:
    """Return the parser for a forced call: of a named function, or (None) of any."""
    if function is None:
        return CallListParser(call_ids)
    return NamedCallParser(call_ids, function)


def reasoning_parser(name: str, prompt: str, then: OutputParser | None = None) -> OutputParser:
    """Return a parser that splits reasoning off, before `then` reads the rest.

    `prompt` is the rendered prompt: templates may open the reasoning themselves.
    """
    opened = REASONING_PARSERS[name] or prompt.rstrip().endswith(THINK_START)
    return ThinkParser(then or PlainParser(), opened=opened)

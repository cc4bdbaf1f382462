"""One YAML document becomes a model, or one sentence that says what to mend.

Every sentence names the file, the field, what was given and what is allowed. Pure: reading the file
is the caller's.
"""

import difflib
import types
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from steelyard_operator.api.meta import PATTERN_WORDS
from steelyard_operator.api.names import API_VERSION, KIND
from steelyard_operator.api.status import InferenceServiceStatus
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.errors import UserError

Location = Sequence[str | int]
LONGEST_GIVEN = 120

# pydantic says these in its own terms; the sentence says them in the file's.
EXPECTED_TYPES = {
    "string_type": "a string (quote it)",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def load(text: str, file: str) -> InferenceService:
    """Return the one InferenceService in a YAML text.

    Args:
        text: the content, one or several documents.
        file: its name, for messages.

    Raises:
        UserError: the text is no YAML, holds no or several InferenceServices, or a field is wrong.
    """
    try:
        documents = [d for d in yaml.load_all(text, Loader=_StrictLoader) if d is not None]
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not valid YAML: {_yaml_problem(error)}") from None
    except (ValueError, RecursionError) as error:  # A date that is none, a number without end.
        raise UserError(f"{file}: not valid YAML: {error}") from None
    services = [d for d in documents if isinstance(d, dict) and d.get("kind") == KIND]
    if len(documents) == 1 and isinstance(documents[0], dict):
        services = documents
    if len(services) != 1:
        raise UserError(
            f"{file}: holds {len(services)} documents of kind {KIND}; must be exactly one "
            f"(apiVersion: {API_VERSION}, kind: {KIND})"
        )
    try:
        # Status is the operator's, and a file from a newer cluster may have more of it.
        desired = {field: value for field, value in services[0].items() if field != "status"}
        return InferenceService.model_validate(desired)
    except ValidationError as error:
        details = error.errors(include_url=False)
        raise UserError(f"{file}: {_sentence(_most_telling(details))}") from None


def read(raw: Mapping[str, Any]) -> InferenceService:
    """Return the resource as an API server has it, without its status.

    Fields that this version does not know are left out: the CRD may be newer than the operator.

    Raises:
        UserError: a field that it does know has a value that it cannot use.
    """
    desired = {field: value for field, value in raw.items() if field != "status"}
    try:
        return InferenceService.model_validate(desired, extra="ignore")
    except ValidationError as error:
        raise UserError(_sentence(error.errors(include_url=False)[0])) from None


def read_status(raw: Mapping[str, Any]) -> InferenceServiceStatus | None:
    """Return the status that a resource has; None where there is none that can be read."""
    try:
        return InferenceServiceStatus.model_validate(raw["status"], extra="ignore")
    except (KeyError, ValidationError):
        return None


def _most_telling(details: list[ErrorDetails]) -> ErrorDetails:
    """An unknown field explains the missing one it stands for, so it comes first."""
    unknown = [detail for detail in details if detail["type"] == "extra_forbidden"]
    return (unknown or details)[0]


def _sentence(detail: ErrorDetails) -> str:
    location = detail["loc"]
    path = _path(location)
    given = detail["input"]
    context = detail.get("ctx", {})
    kind = detail["type"]
    if kind == "extra_forbidden":
        return _unknown_field(location)
    if kind == "missing":
        return f"`{path}` is required"
    if kind == "value_error":
        return f"{path and f'`{path}`: '}{context['error']}"
    if kind in ("literal_error", "enum"):
        return f"`{path}` must be {context['expected']}, got {_shown(given)}"
    if kind == "string_pattern_mismatch":
        return f"`{path}` must be {PATTERN_WORDS[context['pattern']]}, got {_shown(given)}"
    if kind in EXPECTED_TYPES:
        return f"`{path}` must be {EXPECTED_TYPES[kind]}, got {_shown(given)}"
    message = detail["msg"][:1].lower() + detail["msg"][1:]
    return f"`{path}` {message.replace('input should', 'must')}, got {_shown(given)}"


def _shown(given: object) -> str:
    """Return what was given as a sentence can hold it."""
    text = repr(given)
    return text if len(text) <= LONGEST_GIVEN else f"{text[:LONGEST_GIVEN]}..."


def _unknown_field(location: Location) -> str:
    allowed = _fields_at(location[:-1])
    name = str(location[-1])
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"`{_path(location)}` is not a known field; {hint}must be one of: {', '.join(allowed)}"


def _fields_at(location: Location) -> list[str]:
    """The JSON names of the fields of the model at a location."""
    model: type[BaseModel] = InferenceService
    for part in location:
        inner = next((f.annotation for f in model.model_fields.values() if f.alias == part), None)
        model = _model_in(inner) or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, list):
        return next(filter(None, map(_model_in, get_args(annotation))), None)
    return None


def _path(location: Location) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.lstrip(".")


def _yaml_problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{error.problem} (line {mark.line + 1}, column {mark.column + 1})"
    return " ".join(str(error).split())


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice: the second would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping, once every key is known to be unique."""
        keys: set[str] = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in keys:
                raise yaml.MarkedYAMLError(
                    problem=f"key '{key.value}' is given twice", problem_mark=key.start_mark
                )
            if isinstance(key.value, str):
                keys.add(key.value)
        return super().construct_mapping(node, deep)

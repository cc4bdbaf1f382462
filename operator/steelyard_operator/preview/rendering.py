"""`steelyard render FILE`: every object of a service as YAML. What they are is `render`'s."""

from pathlib import Path
from typing import Any

import yaml

from steelyard_operator.api.load import load
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.backends.registry import unsupported as engine_unsupported
from steelyard_operator.errors import UserError
from steelyard_operator.plain_yaml import PlainDumper
from steelyard_operator.planning.trouble import unsupported
from steelyard_operator.render.everything import everything
from steelyard_operator.render.refusals import refused
from steelyard_operator.settings import Settings


def render(file: Path, namespace: str | None, settings: Settings) -> str:
    """Return the objects that the operator makes of a file, with pods as they start.

    Raises:
        UserError: the file cannot be read, or asks for what this version cannot serve.
    """
    service = read_service(file, namespace, settings)
    return as_yaml(everything(service, settings))


def read_service(file: Path, namespace: str | None, settings: Settings) -> InferenceService:
    """Return the service of a file, in another namespace where one is given.

    Raises:
        UserError: the file cannot be read, asks for what this version cannot serve, names a Secret
            of the operator, or takes credentials where they must not go.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"{file}: cannot be read: {reason}") from None
    service = load(text, str(file))
    refusal = unsupported(service, engine_unsupported(service)) or refused(service, settings)
    if refusal is not None:
        raise UserError(f"{file}: {refusal}")
    if namespace is None:
        return service
    meta = service.metadata.model_copy(update={"namespace": namespace})
    return service.model_copy(update={"metadata": meta})


def as_yaml(objects: tuple[dict[str, Any], ...]) -> str:
    """Return objects as YAML documents."""
    return yaml.dump_all(objects, Dumper=PlainDumper, sort_keys=False, width=100)

"""Every field of the resource, for tests that none may be left out of."""

import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def fields(model: type[BaseModel], path: str) -> Iterator[tuple[str, FieldInfo]]:
    """Yield every field below a model, with its path."""
    for field in model.model_fields.values():
        where = f"{path}.{field.alias}"
        yield where, field
        yield from _inside(field.annotation, where)


def _inside(annotation: Any, where: str) -> Iterator[tuple[str, FieldInfo]]:
    """Yield the fields of the models in a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from fields(annotation, where)
    elif get_origin(annotation) is list:
        yield from _inside(get_args(annotation)[0], f"{where}[]")
    elif get_origin(annotation) in (Union, types.UnionType):
        for one in get_args(annotation):
            yield from _inside(one, where)

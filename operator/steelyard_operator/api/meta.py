"""Building blocks of the API's models: the base class and the string formats they share."""

from enum import Enum
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

from steelyard_operator.api.maxima import Key
from steelyard_operator.api.names import MAX_NAME_CHARACTERS

DECIMAL_PATTERN = r"^[0-9]{1,9}(\.[0-9]{1,9})?$"
QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]i?)?$"
SERVICE_NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
VARIABLE_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"
CURRENCY_PATTERN = r"^[A-Z]{3}$"
MODEL_URI_PATTERN = (
    r"^(hf://[^/]+/.+|pvc://[^/]+/.+|s3://[^/]+/.+|oci://.+|file:///.+|package://[^/]+/.+)$"
)

# What a pattern means to people; every pattern of the API has its words here.
PATTERN_WORDS = {
    DECIMAL_PATTERN: "a decimal number in quotes, as in '0.10'",
    QUANTITY_PATTERN: "a Kubernetes quantity, as in '512Mi' or '500m'",
    SERVICE_NAME_PATTERN: "lower-case letters, digits and '-', starting with a letter",
    VARIABLE_PATTERN: "letters, digits and '_', not starting with a digit",
    CURRENCY_PATTERN: "three capital letters, as in 'USD'",
    MODEL_URI_PATTERN: (
        "one of hf://org/name, pvc://claim/path, s3://bucket/path, oci://image, file:///path, "
        "package://distribution/file"
    ),
}

Int32 = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
"""A count. Strict: YAML's `"3"` and `true` are not numbers."""

PositiveInt32 = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
"""A count that may not be zero."""

DecimalString = Annotated[str, Field(max_length=20, pattern=DECIMAL_PATTERN)]
"""A price: decimal digits in a string, because the API has no floats."""

Int64 = Annotated[int, Field(strict=True, ge=0, le=2**53 - 1)]
"""A count that may grow large; exact in JSON."""


def _as_text(given: object) -> object:
    return str(given) if isinstance(given, int) and not isinstance(given, bool) else given


Quantity = Annotated[
    str,
    BeforeValidator(_as_text),
    Field(max_length=32, pattern=QUANTITY_PATTERN),
    WithJsonSchema(
        {"x-kubernetes-int-or-string": True, "maxLength": 32, "pattern": QUANTITY_PATTERN}
    ),
]
"""A Kubernetes quantity, as in `512Mi`, `500m` or 2."""


class Names(Enum):
    """A mark in a field's type: its value names another object (`api.references`)."""

    SECRET = "Secret"  # noqa: S105  # a kind
    SERVICE_ACCOUNT = "ServiceAccount"
    CHECKPOINT = "checkpoint"  # an address, which may begin with a claim's name


Text = Annotated[str, Field(max_length=1024)]
"""A short text of any form."""

ObjectName = Annotated[str, Field(min_length=1, max_length=253)]
"""The name of another object."""

StringMap = Annotated[dict[Key, Text], Field(max_length=64)]
"""Labels, annotations and the like."""

ServiceName = Annotated[
    str,
    Field(
        max_length=MAX_NAME_CHARACTERS,
        pattern=SERVICE_NAME_PATTERN,
    ),
]
"""A DNS label, short enough to prefix the pods' names."""


def keyed_by(key: str) -> JsonDict:
    """Say that a list is a map: its items are merged and told apart by one field."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


ATOMIC: JsonDict = {"x-kubernetes-list-type": "atomic"}
"""A list that is replaced as a whole."""


def rules(*pairs: tuple[str, str]) -> dict[str, Any]:
    """Return the CEL rules of a model, each with the sentence that says what is allowed."""
    return {
        "x-kubernetes-validations": [
            {"rule": rule, "message": sentence} for rule, sentence in pairs
        ]
    }


class ApiModel(BaseModel):
    """Frozen, camelCase outside, unknown fields refused.

    A reader that must accept objects of a newer API passes `extra="ignore"` to `model_validate`.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )


class ObjectMeta(ApiModel):
    """The part of Kubernetes' metadata that Steelyard reads; the rest is accepted and kept out."""

    model_config = ConfigDict(extra="ignore")

    name: ServiceName
    """name of the service; prefixes the names of its pods."""

    namespace: Annotated[str, Field(max_length=63)] = "default"
    """namespace of the service."""

    labels: Annotated[dict[str, str], Field(max_length=64)] = {}
    """labels of the service."""

    annotations: dict[str, str] = {}
    """annotations of the service."""


class SecretKeyRef(ApiModel):
    """One key of a Secret in the service's namespace."""

    name: Annotated[ObjectName, Names.SECRET]
    """name of the Secret."""

    key: ObjectName
    """key inside the Secret."""


class EnvironmentVariable(ApiModel):
    """One variable of a container's environment."""

    name: Annotated[str, Field(max_length=253, pattern=VARIABLE_PATTERN)]
    """name of the variable."""

    value: Annotated[str, Field(max_length=32768)] = ""
    """value of the variable."""


class ResourceRequirements(ApiModel):
    """Compute resources of one container, as in a pod."""

    requests: Annotated[dict[Key, Quantity], Field(max_length=16)] = {}
    """requests is what the scheduler sets aside."""

    limits: Annotated[dict[Key, Quantity], Field(max_length=16)] = {}
    """limits is what the container may use at most."""

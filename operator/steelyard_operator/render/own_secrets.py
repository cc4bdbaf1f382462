"""The operator's own Secrets, which no resource may name: its master key, tokens, workers' keys.

Who may write a resource says where a Secret's content goes; these open every worker's ports.
"""

import re
from collections.abc import Mapping
from typing import Any

from steelyard_operator.api.references import ObjectKind, references
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.errors import UserError
from steelyard_operator.render.names import OWN_SECRET_WORDS, UID_DIGITS
from steelyard_operator.render.volumes import TOKEN_VOLUME
from steelyard_operator.settings import Settings

# Those of services that are gone as well: what was made for them is collected later.
MADE_FOR_SERVICES = re.compile(rf".+-(?:{'|'.join(OWN_SECRET_WORDS)})-[0-9a-f]{{{UID_DIGITS}}}")


def is_own_secret(name: str, settings: Settings) -> bool:
    """Whether a Secret of that name would be the operator's; kustomize adds a hash to the key's."""
    master = settings.master_key_secret
    return (
        name == master
        or name.startswith(f"{master}-")
        or MADE_FOR_SERVICES.fullmatch(name) is not None
    )


def own_secret_named(service: InferenceService, settings: Settings) -> str | None:
    """Say in one sentence where a resource names a Secret of the operator, if it does."""
    for found in references(service):
        if found.kind is ObjectKind.SECRET and is_own_secret(found.name, settings):
            return (
                f"`{found.path}` must not name a Secret of the operator (its master key, or what "
                f"it made for a service), got '{found.name[:80]}'"
            )
    return None


def refuse_own_secrets_in(pod: Mapping[str, Any], settings: Settings) -> None:
    """Let no pod be made from a template of an earlier operator that names a Secret of ours.

    Args:
        pod: the template's specification; its volume for the token is ours to fill.
        settings: the operator's.

    Raises:
        UserError: it does.
    """
    named = [one.get("name") for one in pod.get("imagePullSecrets") or ()]
    for volume in pod.get("volumes") or ():
        if volume.get("name") != TOKEN_VOLUME:
            named.append((volume.get("secret") or {}).get("secretName"))
    for container in (*(pod.get("initContainers") or ()), *(pod.get("containers") or ())):
        for variable in container.get("env") or ():
            source = (variable.get("valueFrom") or {}).get("secretKeyRef") or {}
            named.append(source.get("name"))
    for name in named:
        if name and is_own_secret(name, settings):
            raise UserError(
                f"its template names '{name[:80]}', a Secret of the operator; edit the service"
            )


def refuse_own_secrets(service: InferenceService, settings: Settings) -> None:
    """Let nothing be made from a resource that names a Secret of the operator.

    Raises:
        UserError: it does.
    """
    if (sentence := own_secret_named(service, settings)) is not None:
        raise UserError(sentence)

"""Why nothing is made from a service, whatever engine it asks for: one sentence, or None."""

from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.render.fetching import refused_fetch
from steelyard_operator.render.overrides import refused_override
from steelyard_operator.render.own_secrets import own_secret_named
from steelyard_operator.settings import Settings


def refused(service: InferenceService, settings: Settings) -> str | None:
    """Say what a service must not ask for, if it does."""
    return (
        own_secret_named(service, settings)
        or refused_override(service, settings)
        or refused_fetch(service, settings)
    )

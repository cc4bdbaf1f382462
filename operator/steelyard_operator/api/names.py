"""Names of the API: group, version, kind and where they are written. String constants only."""

from enum import StrEnum

GROUP = "steelyard.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "InferenceService"
PLURAL = "inferenceservices"
SHORT_NAME = "sis"
CATEGORY = "steelyard"

# The name is a prefix of the pods' names, which carry a budget slot (`<service>-<n>`).
MAX_NAME_CHARACTERS = 40


class Role(StrEnum):
    """What a worker does; CamelCase as the API writes it."""

    PREFILL = "Prefill"
    DECODE = "Decode"
    BOTH = "Both"

    @property
    def wire(self) -> str:
        """The role as command lines, `/state` and metrics write it (docs/contract.md)."""
        return self.value.lower()

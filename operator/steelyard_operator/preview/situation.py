"""What there is of a service on a cluster, as `steelyard plan` needs it. Data only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from steelyard_operator.planning.observed import Observed

Raw = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Situation:
    """A service's objects as they are; empty: nothing of it exists."""

    resource: Raw | None = None
    seen: Observed = field(default_factory=Observed)
    objects: Mapping[tuple[str, str], Raw] = field(default_factory=dict)
    """What is applied, by kind and name."""
    made_from: Raw = field(default_factory=dict)
    """The inputs of the newest revision."""

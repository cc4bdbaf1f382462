"""How pods of one component are spread over nodes."""

from collections.abc import Iterable, Mapping
from typing import Any

from steelyard_operator.api.pods import TopologySpreadConstraint
from steelyard_operator.settings import Settings


def spread(
    settings: Settings,
    chosen: Mapping[str, str],
    own: Iterable[TopologySpreadConstraint] = (),
) -> list[dict[str, Any]]:
    """Return the constraints of a pod: the operator's, and the resource's own over the same key.

    Args:
        settings: the operator's.
        chosen: the labels of the pods that are counted.
        own: what the resource adds.
    """
    constraints = {}
    if settings.spread_topology_key:
        constraints[settings.spread_topology_key] = TopologySpreadConstraint(
            topology_key=settings.spread_topology_key
        )
    constraints |= {constraint.topology_key: constraint for constraint in own}
    return [
        {
            "maxSkew": constraint.max_skew,
            "topologyKey": constraint.topology_key,
            "whenUnsatisfiable": constraint.when_unsatisfiable.value,
            "labelSelector": {"matchLabels": dict(chosen)},
        }
        for constraint in constraints.values()
    ]

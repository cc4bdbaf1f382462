"""Members from EndpointSlices: what the two role Services of a service list at the moment.

A pod in both Services serves both roles. A pod that terminates gets no new request; one that left
the slices is no member, and its streams go on (pool.py). Slices carry no labels of pods, so phase
and fingerprint are asked of the worker itself.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from steelyard_runtime.router.membership import Member, Role

SERVICE_LABEL = "kubernetes.io/service-name"
PORT_NAME = "http"


def members(
    slices: Iterable[Mapping[str, Any]], prefill_service: str, decode_service: str
) -> tuple[Member, ...]:
    """Return one member for each pod that the slices list, in the order of their names."""
    roles: dict[str, set[str]] = {}
    urls: dict[str, str] = {}
    usable: dict[str, bool] = {}
    terminating: set[str] = set()
    services: dict[str, Role] = {prefill_service: "prefill", decode_service: "decode"}
    for each in slices:
        role = services.get((each["metadata"].get("labels") or {}).get(SERVICE_LABEL, ""))
        port = _port(each)
        if role is None or port is None:
            continue
        for endpoint in each.get("endpoints") or []:
            if not endpoint.get("addresses"):
                continue
            address = endpoint["addresses"][0]
            name = (endpoint.get("targetRef") or {}).get("name") or address
            conditions = endpoint.get("conditions") or {}
            roles.setdefault(name, set()).add(role)
            urls[name] = (
                f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
            )
            # Kubernetes: a condition that is not given counts as true for readiness.
            usable[name] = usable.get(name, False) or conditions.get("ready") is not False
            if conditions.get("terminating"):
                terminating.add(name)
    found = []
    for name in sorted(roles):
        both = len(roles[name]) > 1
        role = "both" if both else "prefill" if "prefill" in roles[name] else "decode"
        phase = "draining" if name in terminating else None if usable[name] else "loading"
        found.append(Member(id=name, url=urls[name], role=role, phase=phase))
    return tuple(found)


def _port(each: Mapping[str, Any]) -> int | None:
    ports = each.get("ports") or []
    named = [port for port in ports if port.get("name") == PORT_NAME] or ports
    number = named[0].get("port") if named else None
    return number if isinstance(number, int) else None

"""The InferenceServices that this operator serves, as they were seen last.

kopf tells of each change; a pass reads from here and asks the API server nothing. Only resources of
this operator's class are kept.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from steelyard_operator.api.load import read
from steelyard_operator.api.names import OPERATOR_CLASS_LABEL
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.errors import UserError
from steelyard_operator.kube.metrics import SERVICES
from steelyard_operator.kube.queue import Key

Raw = dict[str, Any]

KEPT = (
    *("name", "namespace", "uid", "resourceVersion", "generation", "labels"),
    *("creationTimestamp", "deletionTimestamp"),
)
"""What is read of a resource's metadata."""

MOST_SPEC_BYTES = 192 * 1024
"""Of a spec that is kept. One with every text at its longest has 160 kB; with characters of four
bytes a thousand of those would be more than the operator may use."""


class Services:
    """Resources by key; a change wakes its key."""

    def __init__(self, operator_class: str, changed: Callable[[Key], None]) -> None:
        self._operator_class = operator_class
        self._changed = changed
        self._raw: dict[Key, Raw] = {}
        self._by_name: dict[tuple[str, str], Key] = {}

    def saw(self, type: str | None, body: Mapping[str, Any]) -> None:
        """Take in what a watch said: the object, and DELETED where it is gone."""
        meta = body["metadata"]
        key = (meta["namespace"], meta["uid"])
        labels = meta.get("labels") or {}
        ours = labels.get(OPERATOR_CLASS_LABEL, "") == self._operator_class
        if type == "DELETED" or not ours:
            if self._raw.pop(key, None) is None:
                return
            if self._by_name.get((meta["namespace"], meta["name"])) == key:
                del self._by_name[meta["namespace"], meta["name"]]
        elif not self.put(body):
            return
        SERVICES.set(len(self._raw))
        self._changed(key)

    def put(self, body: Mapping[str, Any]) -> bool:
        """Keep an object unless a newer one is known; wakes nobody. Returns whether it was news."""
        meta = body["metadata"]
        key = (meta["namespace"], meta["uid"])
        old = self._raw.get(key)
        if old is not None and _version(old) >= _version(body):
            return False
        # Annotations may be as long as the rest, and hold it once more (kubectl's last-applied).
        kept = {field: meta[field] for field in KEPT if field in meta}
        self._raw[key] = {**body, "metadata": kept, "spec": _kept(body.get("spec"))}
        self._by_name[meta["namespace"], meta["name"]] = key
        return True

    def get(self, key: Key) -> Raw | None:
        """Return a resource, or None once it is gone."""
        return self._raw.get(key)

    def key_of(self, namespace: str, name: str) -> Key | None:
        """Return the key of the resource with a name."""
        return self._by_name.get((namespace, name))

    def keys(self) -> Iterable[Key]:
        """Return the keys of all resources."""
        return list(self._raw)


def read_kept(raw: Raw) -> InferenceService:
    """Return a resource that was kept.

    Raises:
        UserError: it was too large to be kept, or has a value that cannot be used.
    """
    if raw.get("spec") is None:
        raise UserError(f"`spec` must have at most {MOST_SPEC_BYTES} bytes as JSON, and has more")
    return read(raw)


def _kept(spec: Any) -> Any:
    try:
        return spec if len(orjson.dumps(spec)) <= MOST_SPEC_BYTES else None
    except TypeError:
        return None


def _version(body: Mapping[str, Any]) -> int:
    return int(body["metadata"]["resourceVersion"])

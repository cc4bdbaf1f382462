"""How an orphan becomes ours."""

from typing import Any

import pytest

from steelyard_operator.kube.informer import Held, Store
from steelyard_operator.kube.revisions import adoption
from steelyard_operator.render.owner import Owner

OWNER = Owner("demo", "ns", "our-uid")


def held(**meta: Any) -> Held[Any]:
    """An orphan, as it is in a store."""
    store: Store[None] = Store(lambda _: None, label="steelyard.dev/service")
    store.put({"metadata": meta})
    (found,) = store.every()
    return found


BARE = {"name": "demo-0", "namespace": "ns", "uid": "u", "resourceVersion": "7"}
AUDITOR = {"apiVersion": "v1", "kind": "ConfigMap", "name": "auditor", "uid": "a"}


@pytest.mark.parametrize("references", [[], [AUDITOR]])
def test_other_owners_stay(references: list[dict[str, Any]]) -> None:
    """An owner that does not control it keeps its reference; ours is added."""
    orphan = held(**BARE, **({"ownerReferences": references} if references else {}))
    test_uid, test_version, add = adoption(OWNER, orphan)

    assert (test_uid["value"], test_version["value"]) == ("u", "7")
    after = [*references, add["value"]] if add["path"].endswith("/-") else add["value"]
    assert after == [*references, OWNER.reference()]

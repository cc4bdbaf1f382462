"""Whatever JSON a client sends, the router answers with a sentence or sends on a sound request."""

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard_runtime.errors import RequestError
from steelyard_runtime.router.affinity import TokenEstimator
from steelyard_runtime.router.call import make_call, prefill_body
from steelyard_runtime.router.validation import ALLOWED_FIELDS, CHAT_FIELDS, check_body

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
bodies = st.dictionaries(st.sampled_from(sorted(CHAT_FIELDS)) | st.text(max_size=6), json_values)


@settings(max_examples=100)
@given(bodies | json_values, st.sampled_from(sorted(ALLOWED_FIELDS)))
def test_any_json_is_refused_or_sent_on(body: object, path: str) -> None:
    """Every body gives a `RequestError`, or a call whose both legs can be sent."""
    try:
        checked = check_body(orjson.dumps(body), path, "fake")
    except RequestError as error:
        assert error.status in (400, 404)
        assert error.message.endswith(".")
        return
    call = make_call(
        checked,
        request_id="x",
        path=path,
        headers={},
        estimator=TokenEstimator(),
        arrived_seconds=0.0,
    )

    assert orjson.loads(orjson.dumps(call.body))["seed"] is not None
    assert orjson.loads(orjson.dumps(prefill_body(call.body)))["max_tokens"] == 1


@settings(max_examples=100)
@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_read(raw: bytes) -> None:
    """Bytes that are no JSON object are 400, never a crash."""
    try:
        check_body(raw, "/v1/completions", "fake")
    except RequestError as error:
        assert error.status in (400, 404)


def test_every_unknown_name_gets_a_neighbour() -> None:
    """However far a name is from all allowed ones, one of these is offered."""
    with pytest.raises(RequestError, match=r"nearest allowed one is `\w+`"):
        check_body(b'{"\\ud83d\\ude00": 1}', "/v1/completions", "fake")

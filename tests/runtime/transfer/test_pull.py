"""A decode worker pulls blocks from a prefill worker: what lands and who is told."""

from steelyard_runtime.transfer.interface import LeaseEnded, PullDone


def test_pulled_blocks_are_equal_and_others_stay(make_node, remote, transport) -> None:
    """A pull fills exactly its landing blocks with the bytes of the exported ones."""
    prefill, decode = make_node(transport=transport), make_node(transport=transport)
    before = decode.memory.snapshot()
    params = prefill.transfer.export("r1", [5, 2, 9], 40)
    decode.transfer.pull("d1", remote(params), 0, [1, 7, 3], 40)
    done = decode.wait_for(PullDone, "d1")
    assert done.num_blocks == 3
    for ours, theirs in zip([1, 7, 3], [5, 2, 9], strict=True):
        before[ours] = bytes(prefill.memory.view(theirs))
    assert decode.memory.snapshot() == before


def test_a_done_pull_ends_the_lease(make_node, remote, transport) -> None:
    """The prefill side gets its blocks back as soon as the decode side has them."""
    prefill, decode = make_node(transport=transport), make_node(transport=transport)
    params = prefill.transfer.export("r1", [1], 16)
    decode.transfer.pull("d1", remote(params), 0, [1], 16)
    assert prefill.wait_for(LeaseEnded, "r1").reason == "done"
    assert prefill.gauge("steelyard:kv_leases") == 0

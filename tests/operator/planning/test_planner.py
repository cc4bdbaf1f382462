"""What is made, drained and deleted: exact actions for exact facts."""

from datetime import timedelta

from steelyard_operator.api.names import Role
from steelyard_operator.planning.actions import (
    Action,
    CreatePod,
    DeletePod,
    RequestDrain,
    Resume,
    StartDrain,
)
from steelyard_operator.planning.planner import only_finish, plan
from steelyard_operator.testing import NOON, pod, saw, state, wanted

P, D = Role.PREFILL, Role.DECODE


def short(actions: tuple[Action, ...]) -> list[tuple[str, ...]]:
    """Actions as words: what, where, role or reason."""
    found: list[tuple[str, ...]] = []
    for action in actions:
        match action:
            case CreatePod():
                found.append(("create", str(action.slot), action.role.wire, action.revision))
            case StartDrain() | DeletePod():
                found.append((type(action).__name__, action.pod.name, action.reason))
            case RequestDrain() | Resume():
                found.append((type(action).__name__, action.pod.name))
            case _:
                found.append((type(action).__name__,))
    return found


def test_a_new_service_gets_its_workers_in_the_lowest_slots() -> None:
    """Decode comes first: it serves alone where prefill is missing."""
    made = plan(wanted(1, 2), saw(), NOON).actions

    assert short(made) == [
        ("create", "0", "decode", "new"),
        ("create", "1", "decode", "new"),
        ("create", "2", "prefill", "new"),
    ]


def test_what_cannot_be_served_keeps_its_workers_and_ends_its_drains() -> None:
    """As in a rollout that does not start: nothing is made, nothing that serves is given up."""
    seen = saw(pod(0, D), pod(1, None), states={1: state(D, "drained")})

    made = only_finish(wanted(2, 2, revision="unsupported"), seen, NOON)

    assert short(made.actions) == [("DeletePod", "demo-1", "Replaced")]
    assert made.look_again_after_seconds is not None


def test_a_service_as_wanted_needs_nothing() -> None:
    """Planning is level-triggered: no difference, no action, nothing to look at later."""
    seen = saw(pod(0, D), pod(1, P))

    assert plan(wanted(), seen, NOON).actions == ()
    assert plan(wanted(), seen, NOON).look_again_after_seconds is None


def test_a_terminating_pod_keeps_its_slot_and_is_replaced_at_once_in_another() -> None:
    """A node drain or a deletion by hand loses no time."""
    seen = saw(pod(0, D, deleting=True), pod(1, P))

    assert short(plan(wanted(), seen, NOON).actions) == [("create", "2", "decode", "new")]


def test_a_full_budget_waits_for_a_terminating_pod() -> None:
    """`maxAccelerators` counts what still holds an accelerator."""
    seen = saw(pod(0, D, deleting=True), pod(1, P))

    assert plan(wanted(slots=2), seen, NOON).actions == ()


def test_the_worker_with_the_least_in_flight_goes_first() -> None:
    """A scale-down drains, and only then deletes."""
    seen = saw(
        pod(0, D), pod(1, D), pod(2, P), states={0: state(in_flight=5), 1: state(in_flight=2)}
    )

    assert short(plan(wanted(1, 1), seen, NOON).actions) == [
        ("StartDrain", "demo-1", "ScalingDown")
    ]


def test_a_draining_worker_is_asked_to_drain_then_deleted_when_it_is_empty() -> None:
    """Ready: it is told; drained: it goes; in between it is left alone."""
    want = wanted(1, 1)

    def steps(phase: str, in_flight: int) -> list[tuple[str, ...]]:
        seen = saw(pod(0, D), pod(1, P), pod(2, None), states={2: state(D, phase, in_flight)})
        return short(plan(want, seen, NOON).actions)

    assert steps("ready", 1) == [("RequestDrain", "demo-2")]
    assert steps("draining", 1) == []
    assert steps("drained", 0) == [("DeletePod", "demo-2", "ScaledDown")]


def test_a_drain_ends_at_its_deadline() -> None:
    """A worker that never finishes is deleted some seconds after `drainSeconds`."""
    seen = saw(pod(0, D), pod(1, P), pod(2, None), states={2: state(D, "draining", 1)})
    want = wanted(drain_seconds=30)

    assert plan(want, seen, NOON + timedelta(seconds=34)).actions == ()
    assert short(plan(want, seen, NOON + timedelta(seconds=35)).actions) == [
        ("DeletePod", "demo-2", "ScaledDown")
    ]


def test_a_draining_worker_that_is_wanted_again_serves_on() -> None:
    """It is quicker than any new one."""
    seen = saw(pod(0, None), pod(1, P), states={0: state(D, "draining", 1)})

    assert short(plan(wanted(), seen, NOON).actions) == [("Resume", "demo-0")]


def test_a_rollout_surges_before_it_takes_a_ready_worker() -> None:
    """With maxUnavailable 0 a new worker is ready before an old one leaves."""
    old = [pod(0, D, revision="old"), pod(1, P, revision="old")]

    first = plan(wanted(), saw(*old), NOON)
    assert short(first.actions) == [
        ("create", "2", "decode", "new"),
        ("create", "3", "prefill", "new"),
    ]
    starting = [pod(2, D, ready=False), pod(3, P, ready=False)]
    assert plan(wanted(), saw(*old, *starting), NOON).actions == ()
    done = plan(wanted(), saw(*old, pod(2, D), pod(3, P)), NOON)
    assert short(done.actions) == [
        ("StartDrain", "demo-0", "Replacing"),
        ("StartDrain", "demo-1", "Replacing"),
    ]


def test_a_rollout_in_a_full_budget_takes_one_worker_at_a_time() -> None:
    """No slot is free, so surge is impossible; waiting for ever is worse than a short gap."""
    old = [pod(0, D, revision="old"), pod(1, D, revision="old"), pod(2, P, revision="old")]

    made = plan(wanted(1, 2, slots=3), saw(*old), NOON)

    assert ("StartDrain", "demo-0", "Replacing") in short(made.actions)
    assert sum(isinstance(a, StartDrain) for a in made.actions) == 1


def test_the_last_old_prefill_waits_for_a_compatible_decode() -> None:
    """Workers of different fingerprints cannot pair."""
    seen = saw(
        pod(0, P, revision="old", fingerprint="a"),
        pod(1, D, revision="old", fingerprint="a"),
        pod(2, P, fingerprint="b"),
        pod(3, D, fingerprint="b", ready=False),
    )

    assert plan(wanted(), seen, NOON).actions == ()


def test_paused_repairs_with_the_template_that_the_others_have() -> None:
    """A worker lost meanwhile does not sneak the new template in."""
    seen = saw(pod(0, D, revision="old"), pod(1, P, revision="old"))

    made = plan(wanted(1, 2, paused=True), seen, NOON).actions

    assert short(made) == [("create", "2", "decode", "old")]


def test_a_bad_revision_never_costs_a_good_worker() -> None:
    """Its pods keep failing; the old ones serve on, and are repaired as they were."""
    bad = pod(2, D, ready=False, waiting_reason="ImagePullBackOff")
    seen = saw(pod(0, D, revision="old"), pod(1, P, revision="old"), pod(3, P, ready=False), bad)

    assert plan(wanted(), seen, NOON).actions == ()


def test_a_failed_pod_is_replaced_after_its_delay() -> None:
    """The delay is read off the failed pod: 10 s doubled with each attempt."""
    dead = pod(0, D, phase="Failed", ready=False, finished_at=NOON, attempt=1)
    seen = saw(dead, pod(1, P))

    assert plan(wanted(), seen, NOON + timedelta(seconds=19)).actions == ()
    late = plan(wanted(), seen, NOON + timedelta(seconds=20)).actions
    assert late == (
        CreatePod(
            slot=2,
            role=D,
            revision="new",
            attempt=2,
            reason="Created",
            message="made a decode worker in slot 2, revision new",
        ),
    )


def test_a_crash_loop_is_replaced_after_20_seconds() -> None:
    """The kubelet's own delays would grow to five minutes."""
    crashing = pod(0, D, ready=False, waiting_reason="CrashLoopBackOff", crash_looping_since=NOON)
    seen = saw(crashing, pod(1, P))

    assert plan(wanted(), seen, NOON + timedelta(seconds=19)).actions == ()
    assert short(plan(wanted(), seen, NOON + timedelta(seconds=20)).actions) == [
        ("DeletePod", "demo-0", "CrashLooping"),
        ("create", "2", "decode", "new"),
    ]


def test_suspend_is_hands_off_and_deleting_only_drains() -> None:
    """Nothing is made for a resource that goes."""
    seen = saw(pod(0, D))

    assert plan(wanted(3, 3, suspended=True), seen, NOON).actions == ()
    assert short(plan(wanted(deleting=True), seen, NOON).actions) == [
        ("StartDrain", "demo-0", "Deleting")
    ]


def test_the_budget_leaves_one_eviction_at_a_time() -> None:
    """MinAvailable is the workers that serve after this plan, minus one."""
    seen = saw(pod(0, D), pod(1, D), pod(2, P))

    assert plan(wanted(1, 2), seen, NOON).min_available == 2
    assert plan(wanted(1, 1), seen, NOON).min_available == 1

"""What one worker of a model on a machine can do; each number says where it is from."""

from dataclasses import dataclass

from steelyard_operator.errors import UserError
from steelyard_operator.planning.balance.capacity import Capacity
from steelyard_operator.planning.balance.signals import Objectives


@dataclass(frozen=True, slots=True)
class Profile:
    """A worker's speed, what acts on it take, its price, and the objectives of a service."""

    name: str
    capacity: Capacity
    transfer_seconds_per_token: float
    transfer_seconds: float  # of each transfer, whatever its size
    cold_start_seconds: float  # from the creation of a pod to its readiness
    flip_seconds: float  # from drained to serving in the other role
    drain_seconds: float  # after which a draining worker's sequences move to others
    dollars_per_hour: float
    objectives: Objectives


# The figures of one H100 are those of docs/benchmarks.md ("On an H100", 2026-11-27): decode steps
# at a context of about 1,000 by batch, the share of one token of context from the copy bandwidth
# of 3.0 TB/s. Prefill is the total tokens/s of a load of 1,000 in, 200 or 100 out: a lower bound.
# A step held up to 8,192 tokens in those runs.
PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="llama-3.1-8b-h100",
            capacity=Capacity(
                prefill_tokens_per_second=27_400,
                prefill_overhead_seconds=0.004,
                step_seconds=0.0064,
                # 10.2 ms at 64 sequences of 1,000, of which their keys and values take 2.8.
                step_seconds_per_sequence=1.6e-5,
                step_seconds_per_token=4.4e-8,  # 131,072 bytes / 3.0 TB/s
                kv_tokens=410_000,  # 54 GB
                max_sequences=512,
                prefill_step_tokens=8192,
            ),
            # 131,072 bytes a token at 25 GB/s (200 Gb/s RDMA, anchors of KV transfer).
            transfer_seconds_per_token=5.2e-6,
            transfer_seconds=0.005,
            cold_start_seconds=90.0,  # image present, 16 GB of weights from a node's disk, warm-up
            flip_seconds=3.0,
            drain_seconds=30.0,
            dollars_per_hour=2.0,
            objectives=Objectives(ttft_seconds=1.0, tpot_seconds=0.030),
        ),
        Profile(
            name="gpt-oss-20b-h100",
            capacity=Capacity(
                prefill_tokens_per_second=47_900,
                prefill_overhead_seconds=0.004,
                step_seconds=0.0052,
                # 8.8 ms at 64 and 11.8 ms at 256 sequences of 1,000.
                step_seconds_per_sequence=1.6e-5,
                step_seconds_per_token=1.0e-8,  # 24,576 bytes / 3.0 TB/s, and the windows
                # 57 GB at 49,152 bytes: window layers keep what they do not see.
                kv_tokens=1_170_000,
                max_sequences=512,
                prefill_step_tokens=8192,
            ),
            transfer_seconds_per_token=2.0e-6,  # 49,152 bytes at 25 GB/s
            transfer_seconds=0.005,
            cold_start_seconds=90.0,
            flip_seconds=3.0,
            drain_seconds=30.0,
            dollars_per_hour=2.0,
            objectives=Objectives(ttft_seconds=1.0, tpot_seconds=0.020),
        ),
        # SmolLM2-135M in float32, a worker with one core: fitted on the first run of
        # docs/benchmarks/2026-11-27-open-loop.json, see `fidelity.py`.
        Profile(
            name="smollm2-cpu",
            capacity=Capacity(
                prefill_tokens_per_second=647.3,
                prefill_overhead_seconds=0.0388,
                step_seconds=0.0389,
                step_seconds_per_sequence=1.15e-3,
                step_seconds_per_token=3.7e-6,
                kv_tokens=23_296,  # 1 GiB
                max_sequences=32,
                prefill_step_tokens=256,  # `--max-num-batched-tokens`
            ),
            transfer_seconds_per_token=0.0,
            transfer_seconds=0.056,  # all that is neither queue nor step
            cold_start_seconds=8.0,  # three starts of a worker on the same machine: 6 to 11 s
            flip_seconds=2.0,  # assumed: the operator looks at most a second later, two writes
            drain_seconds=30.0,
            dollars_per_hour=0.10,  # of manifests/samples/smollm2.yaml
            objectives=Objectives(ttft_seconds=2.0, tpot_seconds=0.1),
        ),
    )
}


def profile(name: str) -> Profile:
    """Return the profile of this name.

    Raises:
        UserError: there is none.
    """
    found = PROFILES.get(name)
    if found is None:
        raise UserError(f"--profile must be one of: {', '.join(sorted(PROFILES))}; got '{name}'")
    return found

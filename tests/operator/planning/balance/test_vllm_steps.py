"""vLLM's metrics become step times: what a worker can do is found again."""

import random

import pytest

from steelyard_operator.planning.balance.fit import StepSums, capacity
from steelyard_operator.planning.balance.vllm_steps import MAX_SEQUENCES, Page, steps

BLOCKS, BLOCK_SIZE = 5_000, 16
PREFILL_RATE, STEP, PER_SEQUENCE = 2_000.0, 0.020, 0.001
PAGE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="m"}} {running}
vllm:num_requests_waiting{{engine="0",model_name="m"}} 3.0
vllm:kv_cache_usage_perc{{engine="0",model_name="m"}} {use}
vllm:cache_config_info{{block_size="16",engine="0",num_gpu_blocks="5000",swap_space="0"}} 1.0
vllm:request_prefill_time_seconds_bucket{{engine="0",le="0.3",model_name="m"}} 1.0
vllm:request_prefill_time_seconds_count{{engine="0",model_name="m"}} {prompts}
vllm:request_prefill_time_seconds_sum{{engine="0",model_name="m"}} {prompt_seconds}
vllm:request_prefill_kv_computed_tokens_count{{engine="0",model_name="m"}} {prompts}
vllm:request_prefill_kv_computed_tokens_sum{{engine="0",model_name="m"}} {computed}
vllm:inter_token_latency_seconds_count{{engine="0",model_name="m"}} {gaps}
vllm:inter_token_latency_seconds_sum{{engine="0",model_name="m"}} {gap_seconds}
vllm:request_prompt_tokens_count{{engine="0",model_name="m"}} {ended}
vllm:request_prompt_tokens_sum{{engine="0",model_name="m"}} {prompt_tokens}
vllm:request_generation_tokens_sum{{engine="0",model_name="m"}} {answer_tokens}
"""


class Worker:
    """A worker whose metrics follow from its speed; seconds pass as it is told."""

    def __init__(self) -> None:
        self.at = self.prompt_seconds = self.computed = self.gap_seconds = 0.0
        self.prompts = self.gaps = self.running = self.kv_tokens = self.ended = 0

    def works(self, seconds: float, *, sequences: int, prompts: int = 0, length: int = 0) -> None:
        """Decode so many sequences of 200 tokens all the time, and compute some prompts."""
        step = STEP + PER_SEQUENCE * sequences
        self.at += seconds
        if sequences:
            self.gaps += round(sequences * seconds / step)
            self.gap_seconds += sequences * seconds
        self.prompts += prompts
        self.computed += prompts * length
        self.prompt_seconds += prompts * length / PREFILL_RATE
        self.running, self.kv_tokens = sequences, 200 * sequences

    def ends(self, count: int) -> None:
        """Nothing runs any more; so many requests of 150 and 100 tokens have ended."""
        self.ended, self.running, self.kv_tokens = self.ended + count, 0, 0

    def page(self) -> Page:
        """Return a reading."""
        text = PAGE.format(
            running=float(self.running),
            use=self.kv_tokens / (BLOCKS * BLOCK_SIZE),
            prompts=float(self.prompts),
            prompt_seconds=self.prompt_seconds,
            computed=self.computed,
            gaps=float(self.gaps),
            gap_seconds=self.gap_seconds,
            ended=float(self.ended),
            prompt_tokens=150.0 * self.ended,
            answer_tokens=100.0 * self.ended,
        )
        found = Page.read(text, self.at)
        assert found is not None
        return found


def test_speed_is_found_again_from_readings() -> None:
    """Of a prefill worker and a decode worker together, whose load varies."""
    draw = random.Random(1)
    prefill, decode, total = Worker(), Worker(), StepSums()
    for _ in range(60):
        before = prefill.page(), decode.page()
        prefill.works(
            15, sequences=0, prompts=draw.randrange(5, 20), length=draw.randrange(200, 900)
        )
        decode.works(15, sequences=draw.randrange(1, 40))
        for old, new in zip(before, (prefill.page(), decode.page()), strict=True):
            came = steps(old, new)
            assert came is not None
            total = total.plus(came)

    found = capacity(total)

    assert found is not None
    assert found.prefill_tokens_per_second == pytest.approx(PREFILL_RATE, rel=0.05)
    for sequences in (1, 10, 40):
        expected = STEP + PER_SEQUENCE * sequences
        assert found.step(sequences, 200 * sequences) == pytest.approx(expected, rel=0.1)
    assert (found.kv_tokens, found.max_sequences) == (BLOCKS * BLOCK_SIZE, MAX_SEQUENCES)


def test_a_worker_that_is_idle_whenever_it_is_read_tells_its_context() -> None:
    """Its cache is empty then; what has ended says how much was in it."""
    worker = Worker()
    before = worker.page()
    worker.works(15, sequences=1, prompts=8, length=150)
    worker.ends(8)

    came = steps(before, worker.page())

    assert came is not None
    found = capacity(came)
    assert found is not None
    assert found.step(1, 200) == pytest.approx(STEP + PER_SEQUENCE, rel=0.05)


def test_prompts_that_came_from_another_worker_were_not_computed() -> None:
    """Of a decode worker whose prompts came with their KV blocks nothing is learnt of prefill."""
    worker = Worker()
    before = worker.page()
    worker.works(15, sequences=4, prompts=20, length=1)

    came = steps(before, worker.page())

    assert came is not None
    assert came.prefill == (0.0,) * 5
    assert came.decode[0] == pytest.approx(15 / (STEP + 4 * PER_SEQUENCE), rel=0.01)


def test_an_idle_worker_tells_nothing_and_a_new_one_begins_anew() -> None:
    """No steps, no sums; counts that fell are another process's."""
    worker = Worker()
    worker.works(15, sequences=4, prompts=5, length=100)
    before = worker.page()
    worker.works(15, sequences=0)
    idle = steps(before, worker.page())

    assert idle is not None
    assert idle.prefill[0] == idle.decode[0] == 0
    assert steps(worker.page(), Worker().page()) is None


@pytest.mark.parametrize("missing", ["cache_config_info", "inter_token", "computed_tokens_sum"])
def test_a_page_that_lacks_something_tells_nothing(missing: str) -> None:
    """Another version's page is no reason to guess."""
    values = dict.fromkeys(("running", "use", "prompts", "prompt_seconds", "computed"), 1.0)
    values |= dict.fromkeys(("gaps", "gap_seconds", "ended", "prompt_tokens", "answer_tokens"), 1.0)
    text = PAGE.format(**values)
    rest = "\n".join(line for line in text.splitlines() if missing not in line)

    assert Page.read(text, 0.0) is not None
    assert Page.read(rest, 0.0) is None

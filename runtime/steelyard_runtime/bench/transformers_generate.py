"""Hugging Face transformers' `generate` on the same weights: greedy, sdpa, inference mode."""

import os
import statistics
import time
from pathlib import Path

import torch

PROMPT_TOKENS = 256
OUTPUT_TOKENS = 64


def tokens_per_second(model: Path, *, repetitions: int) -> float:
    """Return the median output tokens/s of one sequence, prefill included, on all cores."""
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    loaded = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    generator = torch.Generator().manual_seed(0)
    speeds = []
    with torch.inference_mode():
        for repetition in range(repetitions + 1):
            prompt = torch.randint(20, 49_000, (1, PROMPT_TOKENS), generator=generator)
            started = time.perf_counter()
            loaded.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                max_new_tokens=OUTPUT_TOKENS,
                min_new_tokens=OUTPUT_TOKENS,
                pad_token_id=0,
            )
            if repetition:  # The first one warms up.
                speeds.append(OUTPUT_TOKENS / (time.perf_counter() - started))
    return statistics.median(speeds)

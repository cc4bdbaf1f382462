"""What `steelyard up` prints about an answer: lines for people, one JSON object for programs."""

import json
import shlex
from typing import Any

from steelyard_operator.local.answer import Answer
from steelyard_operator.local.cost import Price
from steelyard_operator.local.observing import RouterView

# Why the router left a prompt to the decode worker (docs/contract.md, section 6).
DECISIONS = {
    "short": " (the prompt is short)",
    "warm": " (the prompt's beginning was there already)",
    "no_prefill_worker": " (no prefill worker was ready)",
}


def as_json(
    answer: Answer, *, url: str, model: str, price: Price | None, router: RouterView | None
) -> dict[str, Any]:
    """Return the object that `--json` prints; costs are null where the file names no price."""
    cost = _cost(answer, price)
    return {
        "text": answer.text,
        "ttft_seconds": answer.first_token_seconds,
        "tpot_seconds": answer.tpot_seconds,
        "tokens_per_second": answer.tokens_per_second,
        "cost_per_million_tokens": cost,
        "url": url,
        "model": model,
        "wall_seconds": answer.wall_seconds,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "price_per_hour": None if price is None else float(price.hourly),
        "currency": None if price is None else price.currency,
        "prefill_worker": None if router is None else router.last_prefill,
        "decode_worker": None if router is None else router.last_decode,
    }


def as_lines(answer: Answer, price: Price | None, router: RouterView | None) -> list[str]:
    """Return the figures for people."""
    tpot = answer.tpot_seconds
    lines = [
        f"TTFT      {answer.first_token_seconds * 1000:.0f} ms",
        f"TPOT      {'-' if tpot is None else f'{tpot * 1000:.1f} ms'}",
        f"speed     {answer.tokens_per_second:.1f} tokens/s",
    ]
    cost = _cost(answer, price)
    if price is not None and cost is not None:
        lines.append(
            f"$/Mtok    {cost:.2f} {price.currency}   all workers cost {price.hourly} "
            f"{price.currency}/h x {answer.wall_seconds:.2f} s / "
            f"({answer.prompt_tokens} prompt + {answer.completion_tokens} output tokens)"
        )
    else:
        lines.append(
            f"tokens    {answer.prompt_tokens} prompt + {answer.completion_tokens} output "
            f"in {answer.wall_seconds:.2f} s"
        )
    if router is not None and router.last_decode is not None:
        where = f"prefill on {router.last_prefill or router.last_decode}"
        why = DECISIONS.get(router.last_decision or "", "")
        lines.append(f"workers   {where}, decode on {router.last_decode}{why}")
    return lines


def curl(url: str, model: str) -> str:
    """Return a command line that asks the service something."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello!"}]})
    return (
        f"curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d {shlex.quote(body)}"
    )


def _cost(answer: Answer, price: Price | None) -> float | None:
    if price is None:
        return None
    tokens = answer.prompt_tokens + answer.completion_tokens
    cost = price.per_million_tokens(wall_seconds=answer.wall_seconds, tokens=tokens)
    return None if cost is None else float(cost)

"""Dollars per million tokens: what all workers cost, idle ones too, over all tokens in and out."""


def dollars_per_million(
    dollars_per_worker_hour: float, worker_hours: float, tokens: float
) -> float:
    """Return the cost of a million tokens, prompt and output counted alike; 0 without tokens.

    Args:
        dollars_per_worker_hour: the price of all accelerators of one worker.
        worker_hours: from each worker's creation to its end, starting and draining included.
        tokens: prompt and output tokens of answered requests.
    """
    return dollars_per_worker_hour * worker_hours / tokens * 1e6 if tokens else 0.0

"""What the next worker is asked after one died under a stream. Pure.

One choice is resumed: the tokens so far travel as `steelyard.resume_token_ids` and the worker goes
on after them. Several choices (n > 1, several prompts) are replayed whole with the same seed, and
the transcript swallows what the client has: a choice's random draws are keyed by its index, so it
could not be resumed as a request of its own. A worker that sends no token ids (an engine without
`return_token_ids`) can be replayed only before any text went out.
"""

from typing import Any, Literal

from steelyard_runtime.router.transcript import Transcript

ReplayKind = Literal["fresh", "resume", "whole", "close", "impossible"]


def plan_replay(transcript: Transcript) -> ReplayKind:
    """Say how a broken stream can go on.

    `fresh`: nothing but perhaps a role was sent. `resume` and `whole`: see above. `close`: all
    choices are finished, only the end of the stream is missing.
    """
    if transcript.complete:
        return "close"
    if not transcript.has_text and not transcript.has_token_ids:
        return "fresh"
    if not transcript.has_token_ids:
        return "impossible"
    return "resume" if transcript.expected_choices == 1 else "whole"


def resume_fields(body: dict[str, Any], transcript: Transcript) -> None:
    """Make the next worker's body go on after what was sent."""
    sent = [token for one in transcript.choices.values() for token in one.token_ids]
    body["steelyard"] = {**body.get("steelyard", {}), "resume_token_ids": sent}


def is_worker_failure(error: dict[str, Any]) -> bool:
    """Whether an error event is the worker's failure, so that another worker may succeed."""
    code = error.get("code")
    if isinstance(code, str) and code.isdigit():
        code = int(code)
    if isinstance(code, int):
        return code >= 500
    return error.get("type") in (
        "service_unavailable",
        "service_unavailable_error",
        "server_error",
        "internal_server_error",
        "InternalServerError",
    )

"""From a `/v1/completions` body to a generation and its answer."""

from steelyard_runtime.errors import RequestError
from steelyard_runtime.server.completion_answer import CompletionAnswer
from steelyard_runtime.server.model_text import ModelText
from steelyard_runtime.server.preparing import Preparation
from steelyard_runtime.server.protocol.completions import CompletionRequest
from steelyard_runtime.server.sampling_fields import response_grammar
from steelyard_runtime.server.served_model import Worker
from steelyard_runtime.server.serving import Prepared

# OpenAI's default, and vLLM's.
DEFAULT_MAX_TOKENS = 16


async def prepare_completion(worker: Worker, body: CompletionRequest, request_id: str) -> Prepared:
    """Return what to run.

    Raises:
        RequestError: the request cannot be served.
    """
    preparation = Preparation(worker, body, request_id)
    _refuse_unsupported(body, preparation.n)
    export = preparation.export_kv
    given: list[str] | list[list[int]] = _as_list(body.prompt)
    preparation.check_number(len(given))
    prompts = await _token_ids(preparation.text, given, body.add_special_tokens is not False)
    logprobs = None if export else body.logprobs
    echo = bool(body.echo) and not export
    generation = preparation.generation(
        prompts,
        asked_tokens=body.max_tokens,
        default_tokens=DEFAULT_MAX_TOKENS,
        logprobs=logprobs,
        prompt_logprobs=logprobs if echo else None,
        grammar=None if export else response_grammar(body.response_format),
    )
    tokenizer = preparation.text.tokenizer
    echoes = None
    if echo:
        echoes = [
            prompt if isinstance(prompt, str) else await preparation.text.decode(prompt)
            for prompt in given
        ]
    answer = CompletionAnswer(
        preparation.options("cmpl"),
        tokenizer,
        prompts,
        preparation.n,
        logprobs=logprobs is not None,
        echoes=echoes,
    )
    return Prepared(generation, answer, worker.threads)


def _refuse_unsupported(body: CompletionRequest, n: int) -> None:
    if body.suffix:
        raise RequestError("`suffix` is not supported; leave it out", param="suffix")
    if body.best_of is not None and body.best_of not in (n, body.n or 1):
        raise RequestError(
            f"`best_of` must be equal to `n` ({n}): more choices than are returned are not "
            f"supported, got {body.best_of}",
            param="best_of",
        )


def _as_list(prompt: str | list[int] | list[str] | list[list[int]]) -> list[str] | list[list[int]]:
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt[0], int):
        return [prompt]
    return prompt


async def _token_ids(
    text: ModelText, prompts: list[str] | list[list[int]], add_special_tokens: bool
) -> list[list[int]]:
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    encoded = await text.encode_all(texts, add_special_tokens=add_special_tokens, param="prompt")
    token_ids = encoded or [prompt for prompt in prompts if not isinstance(prompt, str)]
    if not all(token_ids):
        raise RequestError("`prompt` must have at least one token, got none", param="prompt")
    if not encoded:
        for ids in token_ids:
            text.check_token_ids(ids, "prompt")
    return token_ids

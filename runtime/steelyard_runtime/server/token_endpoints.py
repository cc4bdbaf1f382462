"""`/tokenize` and `/detokenize`, in vLLM's shapes."""

from typing import Any

import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from steelyard_runtime.errors import RequestError
from steelyard_runtime.server.conversations import render_conversation
from steelyard_runtime.server.openapi import error_responses, request_body
from steelyard_runtime.server.protocol.responses import DetokenizeResponse, TokenizeResponse
from steelyard_runtime.server.protocol.tokens import DetokenizeRequest, TokenizeRequest
from steelyard_runtime.server.served_model import Worker

_ERRORS = error_responses(400, 401, 404, 413, 415, 503)


def add_token_endpoints(app: FastAPI, worker: Worker) -> None:
    """Add both endpoints."""

    @app.post(
        "/tokenize",
        response_class=JSONResponse,
        responses={200: {"model": TokenizeResponse}, **_ERRORS},
        openapi_extra=request_body(TokenizeRequest),
    )
    async def tokenize(request: Request) -> Response:
        """Turn a prompt or a conversation into token ids."""
        text = worker.loaded_text()
        async with worker.bodies.read(request, TokenizeRequest) as body:
            worker.check_model(body.model)
            ids = await _token_ids(worker, body)
            names = await text.token_strings(ids) if body.return_token_strs else None
        return _json(
            {
                "count": len(ids),
                "max_model_len": text.max_model_len,
                "tokens": ids,
                "token_strs": names,
            }
        )

    @app.post(
        "/detokenize",
        response_class=JSONResponse,
        responses={200: {"model": DetokenizeResponse}, **_ERRORS},
        openapi_extra=request_body(DetokenizeRequest),
    )
    async def detokenize(request: Request) -> Response:
        """Turn token ids into text."""
        text = worker.loaded_text()
        async with worker.bodies.read(request, DetokenizeRequest) as body:
            worker.check_model(body.model)
            text.check_token_ids(body.tokens, "tokens")
            return _json({"prompt": await text.decode(body.tokens)})


def _json(document: dict[str, Any]) -> Response:
    # Starlette's own encoder takes ten times as long for a million ids.
    return Response(orjson.dumps(document), media_type="application/json")


async def _token_ids(worker: Worker, body: TokenizeRequest) -> list[int]:
    text = worker.loaded_text()
    if body.prompt is not None and body.messages is None:
        special = body.add_special_tokens is not False
        return await text.encode(body.prompt, add_special_tokens=special, param="prompt")
    if body.messages is None or body.prompt is not None:
        raise RequestError("exactly one of `prompt` and `messages` is required", param="prompt")
    rendered = await render_conversation(
        text,
        body.messages,
        tools=body.tools,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        variables=body.chat_template_kwargs,
    )
    return rendered.token_ids

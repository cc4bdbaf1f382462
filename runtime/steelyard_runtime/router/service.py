"""The router's HTTP surface: which path does what, who may ask, and what every answer carries."""

import asyncio
import logging
import re
import uuid
from collections.abc import Awaitable, Callable

import aiohttp
from aiohttp import web

from steelyard_runtime.errors import RequestError
from steelyard_runtime.router.access import Access, while_valid
from steelyard_runtime.router.affinity import PrefixMemory, TokenEstimator
from steelyard_runtime.router.blame import Blame
from steelyard_runtime.router.bodies import BodyReader, answer_unread
from steelyard_runtime.router.call import Call, make_call
from steelyard_runtime.router.client_stream import ClientGoneError, ClientStream, stream_headers
from steelyard_runtime.router.cors import CrossOrigin
from steelyard_runtime.router.dispatch import Dispatcher
from steelyard_runtime.router.explain import explain
from steelyard_runtime.router.health import HealthMonitor
from steelyard_runtime.router.keys import Account
from steelyard_runtime.router.metrics import RouterMetrics
from steelyard_runtime.router.pool import WorkerPool
from steelyard_runtime.router.proxy import Proxy
from steelyard_runtime.router.replies import error_reply, json_reply
from steelyard_runtime.router.settings import RouterSettings
from steelyard_runtime.router.signals import Signals
from steelyard_runtime.router.sweeper import Sweeper
from steelyard_runtime.router.upstream import Upstream, forwarded_headers
from steelyard_runtime.router.validation import check_body
from steelyard_runtime.router.worker_client import WorkerClient
from steelyard_runtime.router.worker_endpoints import FORWARDED, WorkerEndpoints

logger = logging.getLogger(__name__)

Handler = Callable[[web.BaseRequest, str], Awaitable[web.StreamResponse]]
COMPLETIONS = ("/v1/completions", "/v1/chat/completions")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_CLIENT_GONE = 499
_CALL = web.RequestKey("call", Call)
_ACCOUNT = web.RequestKey("account", Account)


class RouterService:
    """Answers requests; `app.py` gives it a socket."""

    def __init__(
        self,
        settings: RouterSettings,
        pool: WorkerPool,
        memory: PrefixMemory,
        session: aiohttp.ClientSession,
        client: WorkerClient,
    ) -> None:
        self._settings = settings
        self.pool = pool
        self._memory = memory
        self._estimator = TokenEstimator()
        self._signals = Signals()
        self.access = Access(settings, client.key)
        self._bodies = BodyReader(settings.max_request_bytes, settings.body_grace_seconds)
        self._cors = CrossOrigin(settings.allowed_origins)
        self.draining = False
        self.membership_known = False  # set after the first complete list of workers
        self.in_flight = 0
        self.last_kept_seconds = 0.0  # when a client was last told that its connection may stay
        self.connections: Callable[[], int] = lambda: 0  # open ones of clients; `app.py` knows
        self.health = HealthMonitor(pool, session, settings.probe_timeout_seconds)
        self.metrics = RouterMetrics(settings.served_model_name, pool)
        self.sweeper = Sweeper(
            keepalive_seconds=settings.sse_keepalive_seconds,
            stall_seconds=settings.stall_seconds,
            patience_seconds=settings.patience_seconds,
            answers=self.health.answers,
            stalled=lambda worker: self.health.lost(worker, "stalled"),
            tidy=client.close_old,
        )
        upstream = Upstream(client, self.health)
        blame = Blame(pool, self.health.gone)
        self._dispatcher = Dispatcher(
            settings,
            pool=pool,
            memory=memory,
            metrics=self.metrics,
            upstream=upstream,
            sweeper=self.sweeper,
            blame=blame,
        )
        self._proxy = Proxy(
            dispatcher=self._dispatcher,
            upstream=upstream,
            sweeper=self.sweeper,
            health=self.health,
            memory=memory,
            estimator=self._estimator,
            metrics=self.metrics,
            blame=blame,
            max_attempts=settings.max_attempts,
        )
        worker_endpoints = WorkerEndpoints(settings, pool, session, self._bodies)
        self._routes: dict[str, tuple[str, Handler]] = {
            **dict.fromkeys(COMPLETIONS, ("POST", self._completion)),
            **{path: (method, worker_endpoints.forward) for path, method in FORWARDED.items()},
            "/v1/models": ("GET", worker_endpoints.models),
            "/health": ("GET", self._health),
            "/ready": ("GET", self._ready),
            "/metrics": ("GET", self._metrics_page),
            "/router/workers": ("GET", self._workers),
            "/router/signals": ("GET", self._signals_page),
        }

    def begin_drain(self) -> None:
        """Let each answer from now on end its connection."""
        self.draining = True
        self.last_kept_seconds = asyncio.get_running_loop().time()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; every error has OpenAI's shape."""
        request_id = _request_id(request)
        common = {"X-Request-Id": request_id, **self._cors.headers(request)}
        self.in_flight += 1
        reply: web.StreamResponse
        try:
            self.access.check_browser(request)
            if self._cors.is_preflight(request):
                reply = self._cors.preflight(request)
            else:
                reply = await self._answer(request, request_id)
        except RequestError as error:
            reply = error_reply(error)
        except ClientGoneError:
            reply = web.Response(status=_CLIENT_GONE)
        except asyncio.CancelledError:
            self._count(request, request_id, _CLIENT_GONE)
            raise
        except Exception:
            logger.exception("request failed", extra={"fields": {"request_id": request_id}})
            reply = error_reply(
                RequestError(
                    "The router failed on this request; its log has the details under the "
                    "request id.",
                    status=500,
                    code="internal_error",
                    kind="server_error",
                )
            )
        finally:
            self.in_flight -= 1
        if not reply.prepared:
            reply.headers.update(common)
            if self.draining:
                reply.force_close()
            if not request.content.is_eof():
                await answer_unread(request, reply)
        if self.draining and reply.keep_alive is not False:
            # Its head went out before: the client may send another request on this connection.
            self.last_kept_seconds = asyncio.get_running_loop().time()
        self._count(request, request_id, reply.status)
        return reply

    def _count(self, request: web.BaseRequest, request_id: str, code: int) -> None:
        if request.path not in COMPLETIONS:
            return
        self.metrics.request(code)
        fields = {"request_id": request_id, "path": request.path, "code": code}
        call = request.get(_CALL)
        if call is not None:
            elapsed_seconds = asyncio.get_running_loop().time() - call.arrived_seconds
            fields |= {
                "worker": call.worker_id,
                "prefill": call.decision,
                "failures": call.failures,
                "seconds": round(elapsed_seconds, 6),
            }
        logger.info("request", extra={"fields": fields})

    async def _answer(self, request: web.BaseRequest, request_id: str) -> web.StreamResponse:
        path = request.path
        route = self._routes.get(path)
        if route is None and path.startswith("/v1/models/"):
            route = self._routes["/v1/models"]
        if route is None:
            raise RequestError(
                f"`{path[:128]}` is not served here; served are: {', '.join(self._routes)}.",
                status=404,
                code="not_found",
                kind="not_found_error",
            )
        method, handler = route
        if request.method != method:
            raise RequestError(
                f"`{path}` takes {method}, not {request.method[:16]}.",
                status=405,
                code="method_not_allowed",
            )
        account = self.access.account(request)
        if account is None or method == "GET":
            return await handler(request, request_id)
        account.enter(asyncio.get_running_loop().time())
        request[_ACCOUNT] = account
        try:
            return await handler(request, request_id)
        finally:
            account.leave()

    async def _completion(self, request: web.BaseRequest, request_id: str) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        arrived_seconds = loop.time()
        account = request.get(_ACCOUNT)
        raw = await self._bodies.read(request)
        checked = check_body(raw, request.path, self._settings.served_model_name)
        if account is not None:
            self.access.separate(account, checked.fields)
        call = make_call(
            checked,
            request_id=request_id,
            path=request.path,
            headers=forwarded_headers(request_id, request.headers),
            estimator=self._estimator,
            arrived_seconds=arrived_seconds,
        )
        request[_CALL] = call  # for the log
        with self._signals.counted(call, loop.time):
            if call.checked.stream:
                common = {"X-Request-Id": request_id, **self._cors.headers(request)}
                client = ClientStream(request, stream_headers(common), loop, lambda: self.draining)
                reply = await while_valid(account, self._proxy.stream(call, client), client)
            else:
                reply = await while_valid(account, self._proxy.whole(call), None)
        self.metrics.e2e_seconds.observe(loop.time() - arrived_seconds)
        return reply

    async def _health(self, request: web.BaseRequest, request_id: str) -> web.StreamResponse:
        return json_reply({"status": "ok"})

    async def _ready(self, request: web.BaseRequest, request_id: str) -> web.StreamResponse:
        status = "ready"
        if self.draining:
            status = "draining"
        elif not self.membership_known:
            status = "membership not read yet"
        elif not self.pool.decode_ready():
            status = "no decode worker"
        return json_reply({"status": status}, 200 if status == "ready" else 503)

    async def _metrics_page(self, request: web.BaseRequest, request_id: str) -> web.StreamResponse:
        return web.Response(
            body=self.metrics.page(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def _signals_page(self, request: web.BaseRequest, request_id: str) -> web.StreamResponse:
        return json_reply(self._signals.document())

    async def _workers(self, request: web.BaseRequest, request_id: str) -> web.StreamResponse:
        return json_reply(explain(self.pool, self._memory, self._dispatcher.last_placement))


def _request_id(request: web.BaseRequest) -> str:
    given = request.headers.get("X-Request-Id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex

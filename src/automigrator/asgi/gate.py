"""The gate: the server binds at once, and the application appears when its databases are ready."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import parse_qs

from automigrator.asgi.development import Button, RequestRefusedError, ensure_local
from automigrator.asgi.event_stream import EventStreams
from automigrator.asgi.lifespan import ApplicationError
from automigrator.asgi.page import Page, policy, sentence
from automigrator.asgi.progress import Progress
from automigrator.asgi.startup import OnFailure, Startup
from automigrator.errors import ConfigurationError
from automigrator.support.asgi import (
    TRY_AGAIN_LATER,
    Application,
    Receive,
    Scope,
    Send,
    as_json,
    header,
    prefers_html,
    problem,
    respond,
)
from automigrator.support.concurrency import ensure_asyncio, in_thread
from automigrator.support.loggers import logger_of

if TYPE_CHECKING:
    from automigrator.migrator import Migrator
    from automigrator.prometheus import Metrics

Details = bool | Callable[[Scope], bool | Awaitable[bool]]

Answer = Callable[[Scope, Receive, Send], Awaitable[None]]

_PATH = re.compile(r"(/[\w.~-]+)+", re.ASCII)

logger = logger_of("automigrator.asgi")


class Gate:
    """An ASGI application that migrates, answers meanwhile, and then lets another one serve.

    `app`: the application; its own lifespan runs after the migration.
    `migrator`: runs in the background as `migrator.run()` does, once for each process.
    `livez`, `readyz`: paths of the health checks, answered at all times; None: the application's.
    `prefix`: of the paths of the page's own; default `/.automigrator`.
    `metrics`: a path for metrics in Prometheus's format (extra `prometheus`); default None: none.
    `on_failure`: `"stay"` answers 503 with the reason (default); `"exit"` ends the process with
    the command line's exit code; `"serve"` starts the application on databases that were seen and
    of which none is half migrated, and stays where one is not so.
    `retry_every`: seconds after which who stays tries again where a database could not be reached
    or locked, or where the mode only looks, and after any other failure looks whether somebody has
    repaired a database; default 30, None: never.
    `details`: who sees names, revisions and errors: True everybody, False nobody (default), or a
    callable that is given the ASGI scope, sync or async.
    `page`: the file of a template for the page; default: ours.
    `retry_after`: seconds after which clients are told to come again; default 5.
    `head_start`: seconds that a start with nothing to do has before the server binds; default 0.5.
    `development`: ask a person before anything is migrated, on loopback only; default False.

    Raises ConfigurationError.
    """

    def __init__(
        self,
        app: Application,
        migrator: Migrator,
        *,
        livez: str | None = "/livez",
        readyz: str | None = "/readyz",
        prefix: str = "/.automigrator",
        metrics: str | None = None,
        on_failure: OnFailure = "stay",
        retry_every: float | None = 30.0,
        details: Details = False,
        page: str | Path | None = None,
        retry_after: int = 5,
        head_start: float = 0.5,
        development: bool = False,
    ) -> None:
        if on_failure not in get_args(OnFailure):
            raise ConfigurationError(f"on_failure={on_failure!r} is not stay, exit or serve")
        if retry_every is not None and not retry_every > 0:
            raise ConfigurationError(f"retry_every={retry_every!r} is not seconds above 0, or None")
        if not (isinstance(retry_after, int) and retry_after >= 0 and head_start >= 0):
            raise ConfigurationError("retry_after is whole seconds, and head_start is seconds")
        # a word of the environment is true, whatever it says
        if not (isinstance(details, bool) or callable(details)):
            raise ConfigurationError(f"details={details!r} is not True, False or a callable")
        if not isinstance(development, bool):
            raise ConfigurationError(f"development={development!r} is not True or False")
        self._application, self._migrator, self._details = app, migrator, details
        self._page, self._prefix = Page(page), prefix
        self._retry_after, self._head_start = str(retry_after), head_start
        self._button = Button() if development else None
        answers: list[tuple[str | None, Answer]] = [
            (livez, self._livez),
            (readyz, self._readyz),
            (f"{prefix}/state", self._state),
            (f"{prefix}/events", self._events),
            (f"{prefix}/run" if development else None, self._run),
        ]
        self._metrics = None if metrics is None else _metrics()
        if self._metrics is not None:
            answers.append((metrics, partial(_measured, self._metrics)))
        self._answers = _by_path(answers)
        self._own = frozenset({None, *self._answers})
        """Paths that are never the application's; None is the lifespan's."""
        self._startup_of = partial(
            Startup,
            app,
            migrator,
            followers=() if self._metrics is None else (self._metrics,),
            on_failure=on_failure,
            retry_every=retry_every,
            button=self._button,
            opened=self._opened,
        )
        self._close_again()

    def _close_again(self) -> None:
        """Be as before the first start: a test may start one application many times."""
        self._open, self._app = False, self._application
        if self._metrics is not None:
            self._metrics.ready(False)
        self._progress = Progress([target.name for target in self._migrator.targets])
        self._streams = EventStreams(self._progress)
        self._startup = self._startup_of(self._progress)

    @property
    def ready(self) -> bool:
        """Whether the application serves."""
        return self._open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection; see ASGI."""
        if self._open and scope.get("path") not in self._own and not scope.get("root_path"):
            await self._app(scope, receive, send)
        else:
            await self._gated(scope, receive, send)

    async def _gated(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            return await self._live(scope, receive, send)
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        answer = self._answers.get(path) if kind == "http" else None
        if self._startup.begin():  # a server may have no lifespan
            self._startup.bound = True
            await self._startup.settled(self._head_start)
        if self._open and answer is None:
            return await self._app(scope, receive, send)
        if self._button is not None and not self._open:
            try:
                ensure_local(scope)
            except RequestRefusedError as error:
                return await _forbid(scope, send, error)
        if kind == "websocket":
            return await self._refuse(scope, receive, send)
        if kind != "http":
            raise ConfigurationError(f"the gate does not know connections of type {kind!r}")
        await (answer or self._wait)(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The server's lifespan: it binds when this says that the start is complete."""
        await receive()
        try:
            ensure_asyncio()
            self._migrator.is_enabled()
        except ConfigurationError as wrong:
            return await send({"type": "lifespan.startup.failed", "message": str(wrong)})
        self._close_again()
        self._startup.begin(scope.get("state"))
        if (error := await self._startup.settled(self._head_start)) is not None:
            return await send({"type": "lifespan.startup.failed", "message": str(error)})
        self._startup.bound = True
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await self._startup.end()
        except ApplicationError as error:
            return await send({"type": "lifespan.shutdown.failed", "message": str(error)})
        await send({"type": "lifespan.shutdown.complete"})

    def _opened(self, state: MutableMapping[str, Any]) -> None:
        if state:
            # a server may have given its connections copies before there was anything in it
            self._app = partial(_with_state, self._app, state)
        self._open = True
        if self._metrics is not None:
            self._metrics.ready(True)

    # The answers.

    async def _livez(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _as_json(scope, send, HTTPStatus.OK, {"alive": True})

    async def _readyz(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = HTTPStatus.OK if self._open else HTTPStatus.SERVICE_UNAVAILABLE
        state = self._progress.recent(details=False).state
        told = {"ready": self._open, "outcome": state["outcome"], "reason": sentence(state)}
        more = {} if self._open else {"retry-after": self._retry_after}
        await _as_json(scope, send, status, told, **more)

    async def _state(self, scope: Scope, receive: Receive, send: Send) -> None:
        told = self._progress.recent(details=await self._detailed(scope))
        headers = {"content-type": "application/json"}
        await respond(scope, send, HTTPStatus.OK, told.json, headers)

    async def _events(self, scope: Scope, receive: Receive, send: Send) -> None:
        details = await self._detailed(scope)
        await self._streams.answer(scope, receive, send, details=details)

    async def _wait(self, scope: Scope, receive: Receive, send: Send) -> None:
        """503 in the client's language: the page for a browser, a problem for a program."""
        told = self._progress.recent(details=await self._detailed(scope)).state
        headers = {"retry-after": self._retry_after, "vary": "accept"}
        if prefers_html(header(scope, b"accept")):
            root = scope.get("root_path", "")
            body, nonce = self._page.rendered(
                told,
                root=root,
                prefix=self._prefix,
                # in whatever phase: the page learns of the next ones by itself
                run_path=f"{root}{self._prefix}/run" if self._button is not None else None,
            )
            headers["content-type"] = "text/html; charset=utf-8"
            headers["content-security-policy"] = policy(nonce)
        else:
            headers["content-type"] = "application/problem+json"
            body = as_json(problem(HTTPStatus.SERVICE_UNAVAILABLE, self._sentence, **told))
        await respond(scope, send, HTTPStatus.SERVICE_UNAVAILABLE, body, headers)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a websocket: with 503 where the server can, else before the handshake."""
        await receive()
        if "websocket.http.response" in scope.get("extensions", {}):
            body = as_json(problem(HTTPStatus.SERVICE_UNAVAILABLE, self._sentence))
            headers = {"content-type": "application/problem+json"}
            headers["retry-after"] = self._retry_after
            status = HTTPStatus.SERVICE_UNAVAILABLE
            await respond(scope, send, status, body, headers, kind="websocket.http")
            return
        await send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": self._sentence})

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._button is not None
        try:
            self._button.ensure_pressed(scope)
            self._startup.ask()
        except RequestRefusedError as error:
            return await _forbid(scope, send, error)
        await _as_json(scope, send, HTTPStatus.ACCEPTED, {"running": True})

    @property
    def _sentence(self) -> str:
        return sentence(self._progress.recent(details=False).state)

    async def _detailed(self, scope: Scope) -> bool:
        """Whether this client sees names, revisions and errors."""
        if self._button is not None and not self._open:
            return True  # a client of this machine
        if not callable(self._details):
            return self._details
        try:
            seen = self._details(scope)
            return (await seen if inspect.isawaitable(seen) else seen) is True
        except Exception:
            logger.exception("details=%r raised; the client is shown none", self._details)
            return False


def _by_path(answers: Iterable[tuple[str | None, Answer]]) -> dict[str, Answer]:
    """The answers by their paths. Raises ConfigurationError."""
    found: dict[str, Answer] = {}
    for path, answer in answers:
        if path is None:
            continue
        if not _PATH.fullmatch(path):
            raise ConfigurationError(f"{path!r} is no path for the gate: it is like /livez")
        if path in found:
            raise ConfigurationError(f"the gate has two answers for the path {path}")
        found[path] = answer
    return found


async def _with_state(
    app: Application, state: MutableMapping[str, Any], scope: Scope, receive: Receive, send: Send
) -> None:
    """Call the application with what its lifespan has left for its requests."""
    scope["state"] = {**state, **scope.get("state", {})}
    await app(scope, receive, send)


def _metrics() -> Metrics:
    """The metrics of runs. Raises ConfigurationError where the extra is not installed."""
    from automigrator.prometheus import Metrics  # local: an extra

    return Metrics()


async def _measured(metrics: Metrics, scope: Scope, receive: Receive, send: Send) -> None:
    names = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("name[]", [])
    answer = partial(metrics.answer, header(scope, b"accept"), names)
    body, kind = await in_thread(answer)
    await respond(scope, send, HTTPStatus.OK, body, {"content-type": kind})


async def _as_json(
    scope: Scope, send: Send, status: HTTPStatus, told: dict[str, Any], **headers: str
) -> None:
    kind = {"content-type": "application/json"}
    await respond(scope, send, status, as_json(told), {**kind, **headers})


async def _forbid(scope: Scope, send: Send, error: RequestRefusedError) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": str(error)})
        return
    body = as_json(problem(error.status, str(error)))
    await respond(scope, send, error.status, body, {"content-type": "application/problem+json"})

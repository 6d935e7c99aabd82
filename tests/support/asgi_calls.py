"""Calls an ASGI application as a server does: its lifespan, requests, a websocket's handshake."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

LOOPBACK = {"server": ("127.0.0.1", 8000), "client": ("127.0.0.1", 50000)}


@dataclass
class Answer:
    """What an application has sent."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    messages: list[Any] = field(default_factory=list)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """A server of one application; `state` is what its lifespan shares with requests."""

    def __init__(self, app: Any, **scope: Any) -> None:
        self.app, self.scope = app, {**LOOPBACK, **scope}
        self.state: dict[str, Any] = {}
        self.said: list[Any] = []
        self._events: asyncio.Queue[Any] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Ask for the start; return when the server would bind."""
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": self.state}
        started = asyncio.Event()

        async def send(message: Any) -> None:
            self.said.append(message)
            started.set()

        self._task = asyncio.create_task(self.app(scope, self._events.get, send))
        self._events.put_nowait({"type": "lifespan.startup"})
        await started.wait()

    async def stop(self) -> None:
        assert self._task is not None
        self._events.put_nowait({"type": "lifespan.shutdown"})
        await self._task

    async def get(
        self,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "GET",
        raw_headers: Any = None,
        **scope: Any,
    ) -> Answer:
        """The whole answer to one request; `raw_headers` are instead of `headers`."""
        answer = Answer()
        sent = iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive() -> Any:
            for message in sent:
                return message
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            answer.messages.append(message)
            if message["type"].endswith("response.start"):
                answer.status = message["status"]
                answer.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            answer.body += message.get("body", b"")

        lines = {"host": "127.0.0.1:8000", **(headers or {})}
        full = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": raw_headers or [(k.lower().encode(), v.encode()) for k, v in lines.items()],
            "state": dict(self.state),
            **self.scope,
            **scope,
        }
        await self.app(full, receive, send)
        return answer

    async def ready(self, path: str = "/readyz") -> Answer:
        """The first answer that says that the application is ready."""
        return await _first(lambda: self.get(path), lambda answer: answer.status == 200)

    async def state_is(self, phase: str, prefix: str = "/.automigrator") -> Any:
        """The first state of that phase."""
        path = f"{prefix}/state"
        return (await _first(lambda: self.get(path), lambda a: a.json["phase"] == phase)).json


async def _first(ask: Callable[[], Awaitable[Answer]], fits: Callable[[Answer], bool]) -> Answer:
    answer = await ask()
    while not fits(answer):
        await asyncio.sleep(0.01)
        answer = await ask()
    return answer


@asynccontextmanager
async def served(app: Any, **scope: Any) -> AsyncIterator[Server]:
    """Context manager: a server whose application has been started, and is ended."""
    server = Server(app, **scope)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


class Application:
    """An application with a lifespan; `calls` is what was asked of it, in order."""

    def __init__(self, *, broken: str = "", state: Mapping[str, Any] | None = None) -> None:
        self.calls: list[str] = []
        self.seen: list[Any] = []
        self.broken, self.state = broken, state or {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            self.calls.append(scope.get("path", scope["type"]))
            self.seen.append(scope.get("state"))
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"the application"})
            return
        await receive()
        self.calls.append("started")
        if self.broken == "startup":
            await send({"type": "lifespan.startup.failed", "message": "no cache"})
            return
        scope["state"].update(self.state)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.calls.append("ended")
        await send({"type": "lifespan.shutdown.complete"})

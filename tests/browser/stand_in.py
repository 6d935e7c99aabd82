"""A gate as small as the page needs it: it serves the page, the state and the events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from automigrator import Migrator
from automigrator.asgi.page import Page, policy
from automigrator.asgi.progress import Progress

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PREFIX, TOKEN = "/.automigrator", "correct-horse"
STREAM_S, PAUSE_S = 20.0, 0.25


class StandIn:
    """Migrates in the background; then the application answers."""

    def __init__(
        self,
        app: Any,
        migrator: Migrator,
        *,
        details: bool = False,
        page: str | None = None,
        development: bool = False,
    ) -> None:
        self._app, self._migrator = app, migrator
        self._details, self._page = details, Page(page)
        self._development = development
        self._progress = Progress([each.name for each in migrator.targets])
        self._pressed = asyncio.Event()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._lifespan(receive, send)
        path, told = scope["path"], self._progress.told(details=self._details)
        if path == f"{PREFIX}/state":
            return await answer(send, 200, "application/json", json.dumps(told).encode())
        if path == f"{PREFIX}/events":
            return await self._stream(send)
        if told["phase"] == "ready":
            return await self._app(scope, receive, send)
        if path == f"{PREFIX}/run" and scope["method"] == "POST":
            return await self._press(dict(scope["headers"]), send)
        run = f"{PREFIX}/run" if self._development else None
        page, nonce = self._page.rendered(told, root="", prefix=PREFIX, run_path=run)
        allowed = (b"content-security-policy", policy(nonce).encode())
        await answer(send, 503, "text/html; charset=utf-8", page, allowed, (b"retry-after", b"5"))

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        task = asyncio.create_task(self._run())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await send({"type": "lifespan.shutdown.complete"})

    async def _run(self) -> None:
        progress, report, error = self._progress, None, None
        if self._development:
            for plan in await self._migrator.plan():
                progress.expect(plan.name, plan.revisions)
            progress.enter("pending")
            await self._pressed.wait()
        events = self._migrator.events()
        progress.enter("migrating")
        following = asyncio.create_task(self._follow(events))
        try:
            report = await self._migrator.run()
        except Exception as raised:  # noqa: BLE001 - told on the page
            error = raised
        await following
        progress.end(report, error)
        progress.enter("ready" if error is None else "failed")

    async def _follow(self, events: Any) -> None:
        async for event in events:
            self._progress.follow(event)

    async def _stream(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        with suppress(TimeoutError):
            async with asyncio.timeout(STREAM_S):
                while True:
                    version = self._progress.version
                    told = json.dumps(self._progress.told(details=self._details))
                    body = f"data: {told}\n\n".encode()
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                    await self._progress.changed(version)
                    await asyncio.sleep(PAUSE_S)
        await send({"type": "http.response.body", "body": b""})

    async def _press(self, headers: dict[bytes, bytes], send: Send) -> None:
        if headers.get(b"x-automigrator-token") != TOKEN.encode():
            problem = {"title": "Forbidden", "detail": "That is not the token of this process."}
            body = json.dumps(problem).encode()
            return await answer(send, 403, "application/problem+json", body)
        self._pressed.set()
        await answer(send, 202, "application/json", b"{}")


async def answer(
    send: Send, status: int, kind: str, body: bytes, *more: tuple[bytes, bytes]
) -> None:
    headers = [(b"content-type", kind.encode()), (b"cache-control", b"no-store"), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

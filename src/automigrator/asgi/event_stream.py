"""The state of a start as server-sent events, and as JSON for who polls.

Source: the HTML standard, part 9.2.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from contextlib import suppress
from typing import TYPE_CHECKING

from automigrator.support.asgi import ALWAYS, Message, Receive, Scope, Send, encoded, respond

if TYPE_CHECKING:
    from automigrator.asgi.progress import Progress

STREAMS = 64
"""How many streams there may be at once; who finds none left polls."""

STREAM_S = 20.0
"""Seconds that a stream lasts; the browser asks for the next one. Servers that are told to end wait
for what is open."""

STALLED_S = 5.0
"""Seconds more, after which a client that reads nothing loses its place."""

PAUSE_S = 0.25
"""Seconds between two events: what happens meanwhile is told by the next one."""

HEARTBEAT_S = 5.0
"""Seconds without an event after which the state is told again: its clock goes on."""

_OVER = frozenset({"ready", "stopped"})


class EventStreams:
    """The streams of one gate."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._open = 0

    async def answer(self, scope: Scope, receive: Receive, send: Send, *, details: bool) -> None:
        """Send the state, and again whenever it changes, while the client listens."""
        if self._open >= STREAMS:
            headers = {"content-type": "text/plain", "retry-after": "5"}
            await respond(scope, send, 503, b"too many streams: poll the state", headers)
            return
        self._open += 1
        try:
            if scope.get("method") == "HEAD":
                await respond(scope, send, 200, b"", {"content-type": "text/event-stream"})
                return
            await _until_gone(receive, self._sent(send, details))
        finally:
            self._open -= 1

    async def _sent(self, send: Send, details: bool) -> None:
        until = time.monotonic() + STREAM_S
        lines = {"content-type": "text/event-stream", "x-accel-buffering": "no"}
        headers = encoded({**ALWAYS, **lines})
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        text = b"retry: 1000\n\n"
        while True:
            told = self._progress.recent(details=details)
            text += b"data: " + told.json + b"\n\n"
            await send({"type": "http.response.body", "body": text, "more_body": True})
            text = b""
            left = until - time.monotonic()
            if told.state["phase"] in _OVER or left <= 0:
                break
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, HEARTBEAT_S)):
                    await self._progress.changed(told.version)
                    await asyncio.sleep(PAUSE_S)
        await send({"type": "http.response.body", "body": b""})


async def _until_gone(receive: Receive, work: Awaitable[None]) -> None:
    """Await the work, or the client's going away, or its standing still."""

    async def gone() -> None:
        while True:
            message: Message = await receive()
            if message["type"] == "http.disconnect":
                return

    tasks = {asyncio.ensure_future(work), asyncio.ensure_future(gone())}
    try:
        limit_s = STREAM_S + STALLED_S
        done, _ = await asyncio.wait(tasks, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            each.result()
    finally:
        for each in tasks:
            each.cancel()
        await asyncio.wait(tasks)

"""The state of a start as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from automigrator.asgi import event_stream
from automigrator.asgi.event_stream import EventStreams
from automigrator.asgi.progress import Progress


@pytest.fixture
def progress() -> Progress:
    return Progress(["app"])


class Reader:
    """A client that reads a stream until it leaves."""

    def __init__(self, streams: EventStreams, progress: Progress, method: str = "GET") -> None:
        self.messages: list[Any] = []
        self.stalled = False
        self.left = asyncio.Event()
        self._more = asyncio.Event()
        self._requests = iter([{"type": "http.request", "body": b""}])
        scope = {"type": "http", "method": method}
        answer = streams.answer(scope, self._receive, self._send, details=True)
        self.task = asyncio.create_task(answer)

    async def _receive(self) -> Any:
        for message in self._requests:
            return message
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if self.stalled:
            await asyncio.Event().wait()
        self.messages.append(message)
        self._more.set()

    @property
    def body(self) -> bytes:
        return b"".join(each.get("body", b"") for each in self.messages)

    @property
    def phases(self) -> list[str]:
        lines = [line for line in self.body.splitlines() if line.startswith(b"data: ")]
        return [json.loads(line.removeprefix(b"data: "))["phase"] for line in lines]

    async def until(self, phase: str) -> None:
        while phase not in self.phases:
            self._more.clear()
            await self._more.wait()


@pytest.fixture
async def reader(progress: Progress) -> AsyncIterator[Reader]:
    reader = Reader(EventStreams(progress), progress)
    yield reader
    reader.left.set()
    await reader.task


async def test_it_begins_with_the_state_and_tells_every_later_one(
    progress: Progress, reader: Reader
) -> None:
    progress.enter("migrating")
    await reader.until("migrating")
    progress.enter("application")
    await reader.until("application")
    start = reader.messages[0]
    headers = dict(start["headers"])
    assert (start["status"], headers[b"content-type"]) == (200, b"text/event-stream")
    assert headers[b"cache-control"] == b"no-store"


async def test_it_ends_when_the_application_is_ready(progress: Progress, reader: Reader) -> None:
    progress.enter("ready")
    await reader.task
    assert reader.phases[-1] == "ready"
    assert reader.messages[-1] == {"type": "http.response.body", "body": b""}


async def test_it_ends_after_a_while_so_that_a_server_can_end(
    progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "STREAM_S", 0.05)
    reader = Reader(EventStreams(progress), progress)
    await reader.task
    assert b"retry: 1000\n\n" in reader.body


async def test_a_client_that_leaves_frees_its_place(
    progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "STREAMS", 1)
    streams = EventStreams(progress)
    first = Reader(streams, progress)
    await first.until("starting")
    second = Reader(streams, progress)
    await second.task
    assert second.messages[0]["status"] == 503
    first.left.set()
    await first.task
    third = Reader(streams, progress)
    await third.until("starting")
    third.left.set()
    await third.task


async def test_a_client_that_reads_nothing_loses_its_place(
    progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "STREAM_S", 0.05)
    monkeypatch.setattr(event_stream, "STALLED_S", 0.05)
    streams = EventStreams(progress)
    reader = Reader(streams, progress)
    reader.stalled = True
    await reader.task
    assert streams._open == 0


async def test_a_state_is_made_once_for_all_streams(
    progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of thousands of targets it takes long to make, and the loop serves the health checks, too."""
    made = []
    told = progress.told

    def counted(*, details: bool) -> dict[str, Any]:
        made.append(details)
        return told(details=details)

    monkeypatch.setattr(progress, "told", counted)
    streams = EventStreams(progress)
    readers = [Reader(streams, progress) for _ in range(20)]
    for each in readers:
        await each.until("starting")
    progress.enter("ready")
    for each in readers:
        await each.task
        assert each.phases[-1] == "ready"
    assert len(made) == 2


async def test_a_slow_client_misses_what_is_over_and_gets_the_last_state(
    progress: Progress, reader: Reader
) -> None:
    """There is no backlog: an event is the whole state."""
    await reader.until("starting")
    for _ in range(1000):
        progress.enter("migrating")
        progress.enter("application")
    await reader.until("application")
    assert len(reader.phases) <= 3


async def test_a_line_of_others_begins_no_event(progress: Progress, reader: Reader) -> None:
    progress.enter("failed", reason="one\n\ndata: two\r\nevent: three")
    await reader.until("failed")
    assert all(not line.startswith((b"event:", b"data: two")) for line in reader.body.splitlines())


async def test_only_the_head_is_sent_where_only_that_was_asked_for(progress: Progress) -> None:
    reader = Reader(EventStreams(progress), progress, "HEAD")
    await reader.task
    assert (reader.messages[0]["status"], reader.body) == (200, b"")

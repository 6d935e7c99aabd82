"""A worker process: it brings the tenants that its parent names, until the parent is gone."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from typing import Any

from automigrator.errors import AutomigratorError
from automigrator.fleet.executors.agreement import agree, found, work_of
from automigrator.fleet.executors.contract import Bringing, Work
from automigrator.fleet.executors.outcomes import brought, written
from automigrator.support.concurrency import background, error_of, shielded, started
from automigrator.support.json_object import LIMIT
from automigrator.support.redaction import said


def main(descriptor: int) -> None:
    """Serve the parent at the other end of a socket; return when it closes it.

    A line of JSON each: the parent sends the work, then `{"bring": tenant}`; the worker answers
    `{"ready": pid}` or `{"refused": why}`, then `{"beat": true}` and `{"report": text, "of": …}`.
    """
    os.set_inheritable(descriptor, False)
    parent = socket.socket(fileno=descriptor)
    with parent.makefile("rb") as lines:  # the parent sends nothing more before the answer
        first = json.loads(lines.readline())
    threading.Thread(target=_end_with, args=(parent, first["stop_s"]), daemon=True).start()
    worker = f"process {os.getpid()}"
    try:
        work = work_of(first["work"])
        fleet = found(work.source)  # before a loop runs: a module may run one of its own
    except AutomigratorError as error:
        parent.sendall(_line({"refused": str(error)}))
        return
    asyncio.run(_served(parent, fleet, work, worker, first["beat_s"]))


def _end_with(parent: socket.socket, stop_s: float) -> None:
    """End the process `stop_s` seconds after its parent is gone, whatever hangs here."""
    gone = select.poll()
    gone.register(parent, getattr(select, "POLLRDHUP", 0))
    gone.poll()
    time.sleep(stop_s)
    os._exit(1)


async def _served(
    parent: socket.socket, fleet: Bringing, work: Work, worker: str, beat_s: float
) -> None:
    reader, writer = await asyncio.open_connection(sock=parent, limit=2 * LIMIT)
    tell = _Teller(writer)
    try:
        await agree(fleet, work, worker)
    except AutomigratorError as error:
        tell({"refused": str(error)})
        await _closed(writer)
        return
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    tell({"ready": os.getpid()})
    tasks: set[asyncio.Future[Any]] = set()

    async def bring(tenant: str) -> None:
        report = await brought(fleet, tenant, worker)
        tell({"report": written(report), "of": tenant})

    async def take() -> None:
        while line := await reader.readline():
            task = started(bring(json.loads(line)["bring"]))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            task.add_done_callback(lambda task: _ended(task, stop))

    async with background(_beating(tell, beat_s)), background(_set(stop)) as stopped:
        taking: asyncio.Future[Any] = started(take())
        await asyncio.wait({taking, stopped}, return_when=asyncio.FIRST_COMPLETED)
        taking.cancel()
        for each in tasks:
            each.cancel()
        await shielded(asyncio.gather(taking, *tasks, return_exceptions=True))
        await shielded(fleet.aclose())
    await _closed(writer)


async def _set(stop: asyncio.Event) -> None:
    await stop.wait()


def _ended(task: asyncio.Future[Any], stop: asyncio.Event) -> None:
    """A tenant that ended without a report ends the worker: the parent gives it to another one."""
    if (error := error_of(task)) is not None:
        print(f"automigrator: a worker stops: {said(error, ())}", file=sys.stderr)
        stop.set()


class _Teller:
    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def __call__(self, told: dict[str, Any]) -> None:
        self._writer.write(_line(told))

    @property
    def waits(self) -> bool:
        """Whether the parent has not read all yet."""
        return self._writer.transport.get_write_buffer_size() > 0


async def _beating(tell: _Teller, beat_s: float) -> None:
    while True:
        await asyncio.sleep(beat_s)
        if not tell.waits:
            tell({"beat": True})


def _line(told: dict[str, Any]) -> bytes:
    return json.dumps(told).encode() + b"\n"


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        await writer.wait_closed()
    except OSError:
        return  # the parent was killed

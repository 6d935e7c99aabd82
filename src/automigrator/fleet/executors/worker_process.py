"""A worker process as its parent sees it: started, heard, asked, stopped, and killed when frozen.

The parent holds one end of a pair of sockets, the worker the other: the end of either process
closes it. `multiprocessing` has no such end for a worker that is frozen, and the pool of
`concurrent.futures` is broken as a whole by one worker that is killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import Process
from contextlib import suppress
from typing import Any

from automigrator.errors import ConfigurationError
from automigrator.fleet.executors.contract import Work
from automigrator.frozen import Frozen
from automigrator.support.concurrency import shielded, started
from automigrator.support.json_object import LIMIT

_START = """
import json, sys
descriptor, path = sys.argv[1:]
sys.path[:] = json.loads(path)
from automigrator.fleet.executors.process_worker import main
main(int(descriptor))
"""

_OUT = 2
"""The parent's stderr, where a worker's output goes, too."""


class Limits(Frozen):
    """Seconds: `silent` until a worker that says nothing is killed, `start` for its imports,
    `stop` for the statements under way when it is to stop."""

    silent: float = 30.0
    start: float = 120.0
    stop: float = 30.0


class LostError(Exception):
    """Raised where a worker process ended, or was killed, before it answered."""


class WorkerProcess:
    """A running worker; `start` makes one."""

    def __init__(
        self,
        process: Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        limits: Limits,
    ) -> None:
        self._process, self._reader, self._writer = process, reader, writer
        self._limits = limits
        self._asked: dict[str, asyncio.Future[str]] = {}
        self._end = ""
        self._listening: asyncio.Future[None] | None = None

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"process {self._process.pid}"

    @property
    def lost(self) -> bool:
        """Whether it can bring nothing any more."""
        return bool(self._end)

    @classmethod
    async def start(cls, work: Work, limits: Limits) -> WorkerProcess:
        """Start a process, and wait until its fleet is imported.

        Raises ConfigurationError where it refuses the work, LostError where it ends before.
        """
        making = started(cls._made(limits))
        try:
            worker = await asyncio.shield(making)
            await worker._agree(work)
        except BaseException:
            await shielded(_ended(making))
            raise
        worker._listening = started(worker._listen())
        return worker

    @classmethod
    async def _made(cls, limits: Limits) -> WorkerProcess:
        ours, theirs = socket.socketpair()
        path = json.dumps(sys.path)
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-c", _START, str(theirs.fileno()), path),
                    stdin=subprocess.DEVNULL,
                    stdout=_OUT,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # a Ctrl-C is for the parent, which stops its workers
                )
        except OSError as error:
            ours.close()
            raise LostError(f"a worker process cannot be started: {error}") from error
        reader, writer = await asyncio.open_connection(sock=ours, limit=2 * LIMIT)
        return cls(process, reader, writer, limits)

    async def bring(self, tenant: str) -> str:
        """Return the text of a tenant's report. Raises LostError."""
        if self._end:
            raise LostError(self._end)
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._asked[tenant] = answer
        self._tell({"bring": tenant})
        try:
            return await answer
        finally:
            self._asked.pop(tenant, None)

    async def stop(self) -> None:
        """Let it stop the statements under way, and wait for its end; kill it when it is late."""
        with suppress(OSError, RuntimeError):  # it may be gone
            self._writer.write_eof()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.stop):
                await self._process.wait()
        await self.kill()

    async def kill(self) -> None:
        """End it now, and all that it began."""
        self._end = self._end or "it was stopped"
        self._kill()
        await self._process.wait()
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait({self._listening})

    async def _agree(self, work: Work) -> None:
        limits = self._limits
        beat_s = min(limits.silent / 5, 2.0)
        self._tell({"work": vars(work), "stop_s": limits.stop, "beat_s": beat_s})
        answer = await self._heard(limits.start)
        if "refused" in answer:
            raise ConfigurationError(str(answer["refused"]))

    async def _listen(self) -> None:
        """Hear reports until the worker ends or falls silent; then end it, and say so."""
        try:
            while True:
                told = await self._heard(self._limits.silent)
                answer = self._asked.get(told.get("of", ""))
                if answer is not None and not answer.done():
                    answer.set_result(told["report"])
        except LostError as lost:
            self._end = str(lost)
            self._kill()
            for each in self._asked.values():
                if not each.done():
                    each.set_exception(LostError(self._end))

    async def _heard(self, limit_s: float) -> dict[str, Any]:
        """The next thing it says. Raises LostError."""
        line = b""
        for _ in range(2):  # after a sleep of this process all that waited is overdue at once
            with suppress(TimeoutError):
                async with asyncio.timeout(limit_s / 2):
                    line = await self._line()
                    break
        else:
            raise LostError(f"{self.name} said nothing for {limit_s:g} s and was killed")
        if not line.endswith(b"\n"):
            raise LostError(f"{self.name} {await self._how_it_ended()}")
        told = json.loads(line)
        assert isinstance(told, dict)
        return told

    async def _line(self) -> bytes:
        with suppress(ConnectionError):
            return await self._reader.readline()
        return b""

    async def _how_it_ended(self) -> str:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.stop):
                code = await self._process.wait()
                if code < 0:
                    return f"was killed by signal {-code} ({signal.Signals(-code).name})"
                return f"ended with code {code}"
        return "closed its pipe"

    def _kill(self) -> None:
        """Kill it and what it has started, unless it has ended: its number may be another's."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _tell(self, told: dict[str, Any]) -> None:
        self._writer.write(json.dumps(told).encode() + b"\n")


async def _ended(making: asyncio.Future[WorkerProcess]) -> None:
    """End a worker, also one that is still being made."""
    with suppress(LostError):  # it could not be made
        await (await making).kill()

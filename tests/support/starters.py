"""Real processes of an application that all start at the same moment, and may be killed."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from support.canaries import WATCH

_PRELOADED = ["pytest", "sqlalchemy.ext.asyncio", "alembic.command", "asyncpg", "aiosqlite"]
_PRELOADED += [f"sqlalchemy.dialects.{name}" for name in ("sqlite.aiosqlite", "postgresql.asyncpg")]
_PRELOADED += [f"automigrator.backends.{name}.backend" for name in ("sqlite", "postgresql")]
_PRELOADED += [
    "automigrator.runner.pipeline",
    "automigrator.runner.side_database",
    "automigrator.migrations.static.header",
]
_PRELOADED += ["automigrator.migrations.ways", "automigrator.migrations.baseline", "psycopg"]
_PRELOADED += ["automigrator_purge", "automigrator_backup_restore", "automigrator_log_and_continue"]
_PRELOADED += ["automigrator.cli.commands", "automigrator.fleet"]
# a fork server: to start Python and import all that takes a second, to fork takes milliseconds
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(_PRELOADED)

LIMIT_S = 90.0
"""Nothing here takes so long; what does is killed, and its result says so."""


@dataclass(frozen=True)
class Start:
    """One process's start: what it gives its Target and its Migrator."""

    url: str
    config: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    recovery: Sequence[Any] = ()
    mode: Any = "migrate"
    lease_s: float | None = None
    engine: Mapping[str, Any] | None = None
    """Arguments of the application's engine; None for a target that is a URL."""
    plain: bool = False
    """`alembic upgrade head` instead, for comparison."""
    plugins: Sequence[Any] = ()
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further options of the Migrator."""
    prepare: Callable[[], object] | None = None
    """Called in the process just before it begins."""


@dataclass(frozen=True)
class Ended:
    """How a process ended; `report` is that of its one target, None where there is none."""

    pid: int
    error: str = ""
    text: str = ""
    report: Mapping[str, Any] | None = None
    seconds: float = 0.0
    ended_at: float = 0.0
    """On the machine's monotonic clock."""

    @property
    def outcome(self) -> str:
        return str(self.report["outcome"]) if self.report else self.error

    @property
    def kinds(self) -> list[str]:
        return [failure["kind"] for failure in self.report["failures"]] if self.report else []


class Processes:
    """Processes that wait for each other at the start; `kill` and `freeze` are real signals."""

    def __init__(self, starts: Sequence[Start], logs: Path) -> None:
        self._all: list[tuple[BaseProcess, Connection]] = []
        self._plain = any(start.plain for start in starts)
        for start in starts:
            ours, theirs = FORKSERVER.Pipe()
            process = FORKSERVER.Process(target=_process, args=(theirs, start, logs), daemon=True)
            process.start()
            theirs.close()
            self._all.append((process, ours))
        for _, pipe in self._all:
            pipe.recv()
        for _, pipe in self._all:
            pipe.send("go")

    @property
    def pids(self) -> list[int]:
        return [process.pid or 0 for process, _ in self._all]

    def signal(self, pid: int, number: int) -> None:
        if pid in self.pids:  # never anybody else
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self, pid: int) -> None:
        self.signal(pid, signal.SIGKILL)

    def freeze(self, pid: int) -> None:
        self.signal(pid, signal.SIGSTOP)

    def thaw(self, pid: int) -> None:
        self.signal(pid, signal.SIGCONT)

    def ended(self, *, but: Sequence[int] = (), limit_s: float = LIMIT_S) -> list[Ended]:
        """How they ended, those with pids in `but` not waited for."""
        deadline = time.monotonic() + limit_s
        found = []
        for process, pipe in self._all:
            if process.pid in but:
                continue
            assert process.pid is not None
            if not wait([pipe], max(deadline - time.monotonic(), 0)):
                found.append(Ended(process.pid, "still running"))
                continue
            try:
                found.append(pipe.recv())
            except (EOFError, ConnectionResetError):  # the latter before it has read its "go"
                found.append(Ended(process.pid, "killed"))
            if not self._plain:
                WATCH.look("process", found[-1])
        return found

    def stop(self) -> None:
        for process, pipe in self._all:
            process.kill()
            process.join()
            pipe.close()
            process.close()


@contextmanager
def started(starts: Sequence[Start], logs: Path) -> Iterator[Processes]:
    """Start them together; `logs` gets a file from each. None of them outlives the block."""
    processes = Processes(starts, logs)
    try:
        yield processes
    finally:
        processes.stop()


def _process(pipe: Connection, start: Start, logs: Path) -> None:
    logging.basicConfig(
        filename=logs / f"{os.getpid()}.log", level=logging.INFO, format="%(asctime)s %(message)s"
    )
    pipe.send("ready")
    pipe.recv()
    threading.Thread(target=_end_with_the_tests, args=(pipe,), daemon=True).start()
    if start.prepare is not None:
        start.prepare()
    began = time.monotonic()
    error, text, report = _plainly(start) if start.plain else _migrated(start)
    now = time.monotonic()
    pipe.send(Ended(os.getpid(), error, text, report, now - began, now))


def _end_with_the_tests(pipe: Connection) -> None:
    """Outlive nobody who was killed before it could stop this process."""
    with suppress(EOFError, OSError):
        pipe.recv()
    os._exit(1)


def _migrated(start: Start) -> tuple[str, str, Mapping[str, Any] | None]:
    from sqlalchemy.ext.asyncio import create_async_engine

    from automigrator import MigrationError, Migrator, Target
    from automigrator.backends.postgresql.locking import advisory

    if start.lease_s is not None:
        advisory.LEASE_S = start.lease_s

    async def run() -> Any:
        database: Any = start.url
        if start.engine is not None:
            database = create_async_engine(start.url, **start.engine)
        target = Target(database, start.config, **start.options)
        return await Migrator(
            target,
            mode=start.mode,
            recovery=start.recovery,
            plugins=start.plugins,
            **start.more,
        ).run()

    try:
        return "", "", asyncio.run(run()).to_dict()["targets"][0]
    except MigrationError as error:
        return type(error).__name__, str(error), error.report.to_dict()["targets"][0]
    except BaseException as error:
        logging.exception("run() raised")
        return type(error).__name__, str(error), None


def _plainly(start: Start) -> tuple[str, str, None]:
    from alembic import command
    from alembic.config import Config

    config = Config(start.config)
    config.set_main_option("sqlalchemy.url", start.url.replace("%", "%%"))
    try:
        command.upgrade(config, "head")
    except BaseException as error:  # noqa: BLE001 - the test is told
        return type(error).__name__, str(error), None
    return "", "", None

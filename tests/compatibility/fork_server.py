"""Runs in a process of its own, on the code of one release: forks a process for each start.

Both releases import this module, so it may use nothing but the public API.
"""

from __future__ import annotations

import asyncio
import gc
import os
import pkgutil
import re
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

STRATEGIES = [f"automigrator_{name}" for name in ("backup_restore", "log_and_continue", "purge")]
PRELOADED = ["alembic.command", "sqlalchemy.ext.asyncio", "aiosqlite", "asyncpg", *STRATEGIES]

WAITING = "waiting"
"""What a process says when it waits for the lock."""


@dataclass(frozen=True)
class Start:
    """One start of an application: what it gives its Target and its Migrator.

    `dies_at` are patterns: the process kills itself at the step that matches the last of them,
    after others have matched those before it. Files count as steps where they are in `folder`.
    `rollback` is the revision to roll back to, where it is no start but that.
    """

    url: str
    config: Path
    folder: Path
    recovery: Sequence[Any] = ()
    target: Mapping[str, Any] = field(default_factory=dict)
    migrator: Mapping[str, Any] = field(default_factory=dict)
    dies_at: Sequence[str] = ()
    rollback: str = ""


@dataclass(frozen=True)
class Ended:
    """How a start ended: the report of its one target, and the error as text."""

    report: Mapping[str, Any]
    error: str = ""

    @property
    def outcome(self) -> str:
        return str(self.report["outcome"])

    @property
    def said(self) -> str:
        """The error, the failures and all notes."""
        failures = [each["message"] for each in self.report["failures"]]
        return "\n".join([self.error, *failures, *self.report["notes"]])


def serve(address: str) -> None:
    """Fork for every connection to the socket, until standard input ends."""
    imported = [import_module(name) for name in PRELOADED]
    core = import_module("automigrator")
    for module in pkgutil.walk_packages(core.__path__, "automigrator."):
        if not module.name.startswith("automigrator.testing"):
            import_module(module.name)  # whatever it is called in this release
    gc.freeze()  # or every child's collections would copy the pages of all these modules
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        ours = [core, *imported[-len(STRATEGIES) :]]
        print(*(module.__file__ for module in ours), flush=True)
        while sys.stdin.fileno() not in select.select([listening, sys.stdin.fileno()], [], [])[0]:
            accepted, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                _work(Connection(accepted.detach()))
            accepted.close()
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass  # those that have ended by now


def _work(pipe: Connection) -> None:
    """One start, from its description to its end."""
    try:
        pipe.send(os.getpid())
        start: Start = pipe.recv()
        threading.Thread(target=_end_with_the_tests, args=(pipe,), daemon=True).start()
        pipe.send(asyncio.run(_started(start, pipe)))
    except BaseException:  # noqa: BLE001 - the test is told
        pipe.send(traceback.format_exc())
    finally:
        os._exit(0)


def _end_with_the_tests(pipe: Connection) -> None:
    with suppress(EOFError, OSError):
        pipe.recv()
    os._exit(1)


async def _started(start: Start, pipe: Connection) -> Ended:
    # imported here: the steps are counted with the Event of this process's release
    from faults.boundaries import Boundaries, Steps

    from automigrator import Event, MigrationError, Migrator, Target, hookimpl

    awaited = list(start.dies_at)

    class Dying(Boundaries):
        def reached(self, step: str) -> None:
            if re.search(awaited[0], step):
                del awaited[0]
                if not awaited:
                    os.kill(os.getpid(), signal.SIGKILL)

    class Waiting:
        """Tells the test that this process waits for the lock."""

        @hookimpl
        def on_event(self, event: Event) -> None:
            if event.name == "waiting" and event.data.get("on") == "lock":
                pipe.send(WAITING)

    if awaited:
        Dying(str(start.folder)).watch()
    target = Target(start.url, start.config, **start.target)
    plugins = [Steps(), Waiting()]
    options = {"mode": "migrate", "recovery": start.recovery, "plugins": plugins, **start.migrator}
    migrator = Migrator(target, **options)
    try:
        if start.rollback:
            report = (await migrator.rollback(start.rollback)).to_dict()
            return Ended(report.get("targets", [report])[0])
        return Ended((await migrator.run()).to_dict()["targets"][0])
    except MigrationError as error:
        return Ended(error.report.to_dict()["targets"][0], str(error))

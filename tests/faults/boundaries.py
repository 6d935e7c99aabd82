"""Kills a process at the n-th of its own steps, or shortly after; used within that process.

A step is whatever a kill could let happen last: a statement that changes something, an fsync, a
file or folder opened, renamed or removed beside the database, a child process begun, a hook or
event of the run.
"""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from automigrator import Event, hookimpl

_FILES = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "os.chmod", "os.chown"})

_READS = re.compile(r"\s*(?:select|pragma [^=]*$)", re.IGNORECASE)
_ACTS = re.compile(r"pg_(?:terminate|cancel)_backend|advisory")


class Boundaries:
    """Counts steps from 1; `at` is the one to be killed at, `after_s` how long after it began.

    `trace` gets a line for each. Files count where they are in `folder`.
    """

    def __init__(
        self,
        folder: str,
        *,
        at: int | None = None,
        after_s: float = 0.0,
        trace: Path | None = None,
    ) -> None:
        self._folder, self._at, self._after_s = folder, at, after_s
        self._count, self._lock = 0, threading.Lock()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        self._trace = os.open(trace, flags) if trace is not None else None

    def reached(self, step: str) -> None:
        with self._lock:
            self._count += 1
            if self._trace is not None:
                os.write(self._trace, f"{' '.join(step.split())}\n".encode())
            if self._count != self._at:
                return
            if not self._after_s:
                _die()
        threading.Thread(target=self._die_later, daemon=True).start()

    def _die_later(self) -> None:
        time.sleep(self._after_s)
        _die()

    def watch(self) -> None:
        """From now on; there is no way back, so this is for a process made to be killed."""
        global _watching
        _watching = self
        sys.addaudithook(self._audited)
        fsync: Callable[[int], None] = os.fsync

        def synced(descriptor: int) -> None:
            self.reached("fsync")
            fsync(descriptor)

        os.fsync = synced  # type: ignore[assignment]
        connect: Callable[..., sqlite3.Connection] = sqlite3.connect

        def connected(*arguments: Any, **options: Any) -> sqlite3.Connection:
            connection = connect(*arguments, **options)
            connection.set_trace_callback(self._stated)
            return connection

        sqlite3.connect = connected  # type: ignore[assignment]

        @event.listens_for(Engine, "before_cursor_execute")
        def executed(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
            if connection.dialect.name != "sqlite":  # its own trace tells of more
                self._stated(statement)

        @event.listens_for(Engine, "commit")
        def committed(connection: Any) -> None:
            if connection.dialect.name != "sqlite":
                self.reached("commit")

    def _stated(self, sql: str) -> None:
        if _ACTS.search(sql) or not _READS.match(sql):
            self.reached(f"sql {sql[:80]}")

    def _audited(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "subprocess.Popen":
            self.reached(f"child {' '.join(map(str, arguments[1]))}")
        elif name in _FILES and str(arguments[0]).startswith(self._folder):
            self.reached(f"{name} {str(arguments[0])[len(self._folder) :]}")


class Steps:
    """A plugin: every hook and event is a step."""

    @hookimpl
    def before_migrate(self) -> None:
        _reached("before_migrate")

    @hookimpl
    def on_failure(self) -> None:
        _reached("on_failure")

    @hookimpl
    def after_migrate(self) -> None:
        _reached("after_migrate")

    @hookimpl
    def on_event(self, event: Event) -> None:
        _reached(f"event {event.name}")


_watching: Boundaries | None = None


def _reached(step: str) -> None:
    if _watching is not None:
        _watching.reached(step)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)

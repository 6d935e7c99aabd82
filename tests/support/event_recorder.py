"""Writes down the steps of the lock's protocol, in the processes of a race, as they happen.

Each is an event of `docs/locking/lock.pml`, with the moments before it began and after it ended.
"""

from __future__ import annotations

import inspect
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any

from automigrator.frozen import Frozen

OF_THE_WORLD = ("KILLED", "FROZEN", "THAWED")
"""What happens to a process, and is written down by the one that does it."""

_ENDED = {"current": "CURRENT", "migrated": "MIGRATED", "recovered": "MIGRATED"}


_numbers = itertools.count()


class Happened(Frozen):
    """One event; an `end` of None: its process was killed meanwhile, so it may have happened."""

    process: int
    event: str
    start: float
    end: float | None


class Recorder:
    """Appends to the file that all processes of a race share, a line at a time."""

    def __init__(self, file: Path) -> None:
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._events: dict[int, str] = {}
        self.happened: set[str] = set()

    def begins(self, event: str, process: int | None = None) -> int:
        number = next(_numbers)
        self._events[number] = event
        self._write(number, event=event, process=process or os.getpid())
        return number

    def ends(self, number: int, *, happened: bool = True) -> None:
        if happened:
            self.happened.add(self._events[number])
        self._write(number, happened=happened)

    @contextmanager
    def during(self, event: str, process: int | None = None) -> Iterator[None]:
        """Context manager: the event happens within, and not if that raises."""
        number, happened = self.begins(event, process), False
        try:
            yield
            happened = True
        finally:
            self.ends(number, happened=happened)

    def _write(self, number: int, **what: object) -> None:
        line = {"by": os.getpid(), "number": number, "at": time.monotonic(), **what}
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def around(
        self,
        owner: Any,
        name: str,
        event: Callable[..., str],
        happened: Callable[[Any], bool] = lambda _: True,
    ) -> None:
        """Let every call of a function be an event, "" for none; the result says if it happened."""
        function = getattr(owner, name)

        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def called(*args: Any, **kwargs: Any) -> Any:
                if not (told := event(*args)):
                    return await function(*args, **kwargs)
                number, done = self.begins(told), False
                try:
                    result = await function(*args, **kwargs)
                    done = happened(result)
                finally:
                    self.ends(number, happened=done)
                return result
        else:

            @wraps(function)
            def called(*args: Any, **kwargs: Any) -> Any:
                if not (told := event(*args)):
                    return function(*args, **kwargs)
                number, done = self.begins(told), False
                try:
                    result = function(*args, **kwargs)
                    done = happened(result)
                finally:
                    self.ends(number, happened=done)
                return result

        setattr(owner, name, called)


def happened(file: Path) -> list[Happened]:
    """What was written down, in the order of the beginnings."""
    begun: dict[tuple[int, int], dict[str, Any]] = {}
    found: dict[tuple[int, int], Happened | None] = {}
    for line in map(json.loads, file.read_text().splitlines()):
        key = line["by"], line["number"]
        if "event" in line:
            begun[key] = line
            found[key] = Happened(line["process"], line["event"], line["at"], None)
        elif line["happened"]:
            first = begun[key]
            found[key] = Happened(first["process"], first["event"], first["at"], line["at"])
        else:
            found[key] = None
    told = [each for each in found.values() if each is not None]
    over = {each.process for each in told if each.event.startswith("ENDED")}
    told = [each for each in told if each.event != "KILLED" or each.process not in over]
    killed = {each.process for each in told if each.event == "KILLED"}
    # a statement that failed has no end either
    told = [each for each in told if each.end is not None or each.process in killed]
    return sorted(told, key=lambda each: each.start)


def installed(file: Path) -> Callable[[], None]:
    """For `Start.prepare`: record this process."""
    return partial(_record, file)


def _record(file: Path) -> None:
    from automigrator import Migrator
    from automigrator.backends.postgresql.copying import template_copy
    from automigrator.backends.postgresql.dump import dump
    from automigrator.backends.postgresql.hold import ServerHold
    from automigrator.backends.postgresql.locking import advisory, lock
    from automigrator.backends.postgresql.locking import session as lock_session
    from automigrator.backends.postgresql.snapshot import ServerSnapshots
    from automigrator.backends.sqlite import hold, lock_files, recover
    from automigrator.backends.sqlite.snapshot import FileSnapshots

    recorder = Recorder(file)
    started = recorder.begins("STARTED")

    def has_started() -> None:
        # a record binds this process from a moment on that is before its first try for the lock
        if "STARTED" not in recorder.happened:
            recorder.ends(started)

    def always(event: str) -> Callable[..., str]:
        return lambda *_: event

    def tries(*_: object) -> str:
        has_started()
        return "LOCKED"

    def note(_: object, record: Any) -> str:
        if record is None:
            return "REMOVE"
        return "BEGUN" if record.outcome == "begun" else "FAILED"

    def fenced(*_: object) -> str:
        return "" if "FENCED" in recorder.happened else "FENCED"

    recorder.around(advisory.Turns, "mine", tries, bool)
    recorder.around(lock_files.LockFile, "acquire", tries, bool)
    recorder.around(lock, "_end_predecessors", always("FENCED"))
    # the kernel has ended what a predecessor ran
    recorder.around(hold.FileHold, "confirm", fenced)
    for each in (ServerHold, hold.FileHold):
        recorder.around(each, "recover", always("REPAIRED"), lambda done: done is not None)
    for owner in (lock_session.SessionHold, hold.FileHold):
        recorder.around(owner, "leave", note)
    for snapshots in (ServerSnapshots, FileSnapshots):
        recorder.around(snapshots, "take", always("OPEN"))
    for module in (template_copy, dump):
        recorder.around(module, "put_back", always("RESTORE"))
    recorder.around(FileSnapshots, "restore", always("RESTORE"))
    recorder.around(recover, "_put_back", always("RESTORE"))
    _record_commits(recorder)
    migrate = Migrator.migrate_target

    async def migrated(self: Migrator, run: Any) -> Any:
        report = await migrate(self, run)
        has_started()
        waited = "LOCKED" not in recorder.happened
        with recorder.during(f"ENDED + {_how(report, waited)}"):
            return report

    Migrator.migrate_target = migrated


def _record_commits(recorder: Recorder) -> None:
    """Of revisions: each COMMIT of something they did, and each AUTOCOMMIT statement."""
    from sqlalchemy import event
    from sqlalchemy.engine import Connection

    from automigrator.backends.contract.sessions import in_autocommit
    from automigrator.migrations import observation

    def commits(seen: Any, *_: object) -> str:
        record = seen.record
        return "COMMITTED" if record.whole or (seen.dirty and record.current) else ""

    recorder.around(observation._Seen, "commit", commits)
    follow = observation.Observation.follow

    def followed(
        self: observation.Observation, backend: Any, connection: Connection
    ) -> Callable[[], None]:
        undo, sent = follow(self, backend, connection), []

        def before(conn: Connection, *_: object) -> None:
            if self.current is not None and in_autocommit(conn):
                sent.append(recorder.begins("COMMITTED"))

        def after(*_: object) -> None:
            if sent:
                recorder.ends(sent.pop())

        event.listen(connection, "before_cursor_execute", before)
        event.listen(connection, "after_cursor_execute", after)
        return undo

    observation.Observation.follow = followed


def _how(report: Any, waited: bool) -> str:
    if report.outcome in _ENDED:
        return _ENDED[report.outcome]
    if report.failures and report.failures[-1].kind == "lock-timeout":
        return "WAITED" if waited else "LOST"
    return "BROKEN"

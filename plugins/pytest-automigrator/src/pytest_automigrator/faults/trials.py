"""Trials: a start with a fault, another one without, and a look at what is there then."""

from __future__ import annotations

import os
import pickle
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cached_property
from typing import Any

from sqlalchemy import URL

from automigrator import AutomigratorError, ConfigurationError
from automigrator.testing.postgresql.connection import ServerConnection
from automigrator.testing.processes import Process
from pytest_automigrator.faults.injection import Kind, migrate
from pytest_automigrator.faults.report import FaultReport, Trial
from pytest_automigrator.seeds import NO_ROWS
from pytest_automigrator.state import State, differences, state_of
from pytest_automigrator.walks import Seed, Walks

OF: dict[str, tuple[Kind, ...]] = {
    "sqlite": ("fail", "kill", "full", "lock"),
    "postgresql": ("fail", "kill", "disconnect", "lock"),
}
"""The faults that each kind of database can have."""

LOCKED_S = 1.5
"""Seconds for which a lock is in the way."""

_UNPICKLED = (
    "faults are made in processes of their own, and automigrator_options[{!r}] cannot be sent to "
    "one: {}. No fault was made. Let it be a function or an object of a module, by its name there "
    "(no lambda, nothing local), or name the application's Migrator with automigrator_app"
)


class Trials:
    """The faults of one revision: each on a copy of a database at its parent, with rows."""

    def __init__(self, walks: Walks, kind: str, revision: str, seed: Seed) -> None:
        self._walks, self._kind, self._revision = walks, kind, revision
        self._application = walks.application
        for name, value in self._application.options.items():
            try:
                pickle.dumps(value)
            except Exception as error:
                raise ConfigurationError(_UNPICKLED.format(name, error)) from error
        (found,) = (each for each in walks.revisions if each.revision == revision)
        parent = found.down_revision[0] if found.down_revision else "base"
        self._start = walks.at(parent)
        for each in found.down_revision[1:]:
            self._application.migrate(self._start, each)
        self._empty = seed(self._start, parent)

    def run(self, kinds: Sequence[str]) -> FaultReport:
        """Make each of these faults at every step."""
        report = FaultReport(self._revision, self._kind)
        if self._empty:
            report.notes.append(NO_ROWS.format(", ".join(self._empty)))
        steps, outcome, failure = self._undisturbed
        if outcome not in ("migrated", "recovered"):
            report.notes.append(f"without any fault it ends {outcome}: {failure}")
            report.trials.append(Trial("fail", 0, "", outcome, "", "", ("it fails by itself",)))
            return report
        for kind in OF[self._kind]:
            if kind not in kinds:
                continue
            if kind == "lock":
                report.trials.append(self._locked())
                continue
            for at, step in enumerate(steps, 1):
                if kind == "kill" or step != "COMMIT":
                    report.trials.append(self._tried(kind, at, step))
        return report

    @cached_property
    def _undisturbed(self) -> tuple[list[str], str, str]:
        """The steps of a start without a fault, and how it ends."""
        url = self._walks.copy(self._start)
        found = self._started(url, None, 0)
        assert found is not None
        self._expected = self._state(url)
        self._walks.drop(url)
        return found

    @cached_property
    def _before(self) -> State:
        return self._state(self._start)

    def _tried(self, kind: Kind, at: int, step: str) -> Trial:
        url = self._walks.copy(self._start)
        return self._judged(url, kind, at, step, self._started(url, kind, at))

    def _locked(self) -> Trial:
        url = self._walks.copy(self._start)
        with _lock(url) as what:
            process = self._process(url, "lock", 0)
            time.sleep(LOCKED_S)
        return self._judged(url, "lock", 0, what, _ended(process))

    def _process(self, url: URL, kind: Kind | None, at: int) -> Process:
        text = url.render_as_string(hide_password=False)
        work = (self._application, text, self._revision, kind, at, dict(os.environ))
        return Process(migrate, *work)

    def _started(self, url: URL, kind: Kind | None, at: int) -> tuple[list[str], str, str] | None:
        """What a start told; None where it was killed."""
        return _ended(self._process(url, kind, at))

    def _judged(self, url: URL, kind: Kind, at: int, step: str, told: Any) -> Trial:
        if told is None:
            ended = "killed"
        else:
            _, outcome, failure = told
            ended = f"{outcome} ({failure})" if failure else str(outcome)
        left = self._left(self._state(url))
        wrong: list[str] = []
        try:
            outcome = self._application.migrate(url, self._revision, recovery=True).outcome
            then = str(outcome)
        except AutomigratorError as error:
            outcome, then = "failed", "failed"
            wrong.append(f"the next start fails: {error}")
        if outcome == "degraded":
            wrong.append("the next start does not migrate, although nothing is in its way")
        if not wrong:
            wrong += self._lacks(self._state(url), recovered="recovered" in (outcome, ended))
        self._walks.drop(url)
        return Trial(kind, at, step, ended, left, then, tuple(wrong))

    def _lacks(self, found: State, *, recovered: bool) -> list[str]:
        """How it differs from what a start without a fault makes; a strategy may cost rows."""
        if recovered and found.schema == self._expected.schema:
            return []
        return differences(self._expected, found)

    def _left(self, found: State) -> str:
        if found == self._before:
            return "as before"
        return "migrated" if found == self._expected else "half of it"

    def _state(self, url: URL) -> State:
        return state_of(url, self._application.version_tables(url))


def _ended(process: Process) -> tuple[list[str], str, str] | None:
    """What a process told before it ended; None where it was killed."""
    try:
        told: tuple[list[str], str, str] = process.told()
    except AssertionError:
        if process.ended():
            return None
        raise
    process.ended()
    return told


@contextmanager
def _lock(url: URL) -> Iterator[str]:
    """Context manager: another connection is in the way; yields how."""
    if url.get_backend_name() == "sqlite":
        with closing(sqlite3.connect(str(url.database), isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield f"BEGIN IMMEDIATE, for {LOCKED_S:g} s"
        return
    dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with closing(ServerConnection(dsn)) as server:
        rows = server.fetch(
            "select quote_ident(schemaname) || '.' || quote_ident(tablename) from pg_tables"
            " where schemaname not in ('pg_catalog', 'information_schema')"
        )
        server.fetch("begin")
        for (name,) in rows:
            server.fetch(f"lock table {name} in access share mode")
        yield f"a reader of {len(rows)} tables, for {LOCKED_S:g} s"

"""A half-done state that cannot be looked at is `unknown`, never `clean`."""

from __future__ import annotations

import sqlite3
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from support.notes_application import BROKEN, GOOD, ROWS, Application

from automigrator import Decision, Failure, MigrationError, Run, Target, hookimpl
from automigrator.backends.sqlite import reader
from automigrator.backends.sqlite.companions import journal_path

pytestmark = [
    pytest.mark.plugins,
    pytest.mark.long("another_attempt", "that_passes", "second_look"),
]

ALWAYS = ("backup-restore", {"snapshot": "always"})
LOCKING = """
    import sqlite3, sys, threading
    sys.lock_of_the_tests = sqlite3.connect({path!r}, check_same_thread=False, isolation_level=None)
    writer = vars(sys).pop("writer_of_the_tests", None)
    if writer is not None:
        writer.close()
        threading.Timer(1.0, sys.lock_of_the_tests.close).start()
    if not hasattr(sys, "no_locks_of_the_tests"):
        sys.lock_of_the_tests.execute("BEGIN EXCLUSIVE")
    if writer is not None:
        sys.no_locks_of_the_tests = True
    raise
"""


class Notes(Application):
    """Somebody else locks its file for good once env.py has failed."""

    def __init__(self, root: Path, url: str) -> None:
        super().__init__(root, url, kind="per_migration")
        self.path = str(make_url(url).database)
        env = root / "migrations" / "env.py"
        body, lock = textwrap.indent(env.read_text(), "    "), LOCKING.format(path=self.path)
        head = "from __future__ import annotations\n" if "from __future__" in body else ""
        body = body.replace("    from __future__ import annotations\n", "")
        env.write_text(f"{head}try:\n{body}\nexcept Exception:{lock}")

    def target(self, **options: Any) -> Target:
        return super().target(**{"retry_timeout": 0.0, "connect_timeout": 0.3, **options})


def let_go() -> None:
    lock: sqlite3.Connection | None = vars(sys).pop("lock_of_the_tests", None)
    if lock is not None:
        lock.close()


@pytest.fixture
def notes(tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notes]:
    monkeypatch.setattr(reader, "BUSY_S", 0.05)
    yield Notes(tmp_path, sqlite_url)
    let_go()


async def failed(notes: Application, *recovery: Any, **options: Any) -> Any:
    with pytest.raises(MigrationError) as caught:
        await notes.start(*recovery, **options)
    return caught.value.report.targets[0]


async def test_what_was_committed_and_cannot_be_looked_at_is_unknown(notes: Notes) -> None:
    notes.deploy(GOOD, BROKEN)
    report = await failed(notes)
    (failure,) = report.failures
    assert (failure.kind, failure.state, report.state) == ("revision", "unknown", "unknown")
    assert "could not be looked at after the failure" in str(failure)
    assert "A start looks before it changes anything" in failure.advice


async def test_where_nothing_was_committed_by_observation_it_is_clean(notes: Notes) -> None:
    notes.deploy(f"{GOOD}\n{BROKEN}")
    (failure,) = (await failed(notes)).failures
    assert failure.state == "clean"


async def test_the_application_starts_on_it_only_where_it_may_on_half_a_migration(
    notes: Notes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes.deploy(GOOD, BROKEN)
    report = await failed(notes, "log-and-continue")
    assert "needs Migrator(allow_partial=True) as it is not known" in "\n".join(report.notes)
    (risk,) = [
        each.automigrator["at_risk"]
        for each in caplog.records
        if each.name == "automigrator.log_and_continue"
    ]
    assert "could not be looked at" in risk and "may be at r1" in risk
    let_go()
    monkeypatch.setattr(sys, "no_locks_of_the_tests", True, raising=False)
    (again,) = (await notes.start("log-and-continue", allow_partial=True)).targets
    assert (again.outcome, again.after) == ("degraded", ("r2",))


async def test_it_is_not_put_back_unseen_and_the_next_start_looks(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes.deploy(GOOD, BROKEN)
    report = await failed(notes, ALWAYS)
    assert report.state == "unknown"
    assert "the database cannot be looked at" in "\n".join(report.notes)
    assert journal_path(Path(notes.path)).exists()
    let_go()
    monkeypatch.setattr(sys, "no_locks_of_the_tests", True, raising=False)
    again = await failed(notes, ALWAYS)
    assert "was put back from" in "\n".join(again.notes)
    assert (notes.notes(), notes.heads) == (ROWS, {"r1"})


async def test_neither_does_a_strategy_that_passes_close_its_journal(notes: Notes) -> None:
    class Copies:
        @hookimpl
        async def before_migrate(self, run: Run) -> None:
            await run.snapshot()

    notes.deploy(GOOD, BROKEN)
    report = await failed(notes, plugins=[Copies()])
    assert "the next start looks whether" in "\n".join(report.notes)
    assert journal_path(Path(notes.path)).exists()


async def test_what_may_act_is_shown_the_state_that_a_second_look_has_found(notes: Notes) -> None:
    states: list[str] = []

    class Opens:
        @hookimpl
        def on_failure(self, run: Run, failure: Failure) -> None:
            states.append(failure.state)
            let_go()

    class Reverts:
        effect = "reverting"

        @hookimpl
        def on_failure(self, run: Run, failure: Failure) -> Decision:
            states.append(failure.state)
            return Decision.ABORT

    notes.deploy(GOOD, BROKEN)
    report = await failed(notes, Opens(), Reverts())
    assert states == ["unknown", "partial-at-boundary"]
    assert report.state == "partial-at-boundary"


BUSY = """
import sqlite3, sys
if not hasattr(sys, "no_locks_of_the_tests"):
    other = sqlite3.connect({path!r}, timeout=0, check_same_thread=False, isolation_level=None)
    sys.writer_of_the_tests = other
    other.execute("BEGIN IMMEDIATE")  # the migration's own transaction is in the way
op.execute("INSERT INTO notes VALUES (9, 'eggs')")
"""


async def test_another_attempt_is_made_once_it_is_known_what_the_first_one_left(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "BUSY_S", 0.05)
    notes = Notes(tmp_path, f"{sqlite_url}?timeout=0.1")
    monkeypatch.setattr(notes, "target", lambda: Notes.target(notes, retry_timeout=10.0))
    notes.deploy(GOOD, BUSY.format(path=notes.path))
    try:
        (report,) = (await notes.start("log-and-continue")).targets
    finally:
        vars(sys).pop("no_locks_of_the_tests", None)
        let_go()
    assert (report.outcome, report.state, report.after) == ("migrated", "clean", ("r3",))
    assert [each.revision for each in report.applied] == ["r2", "r3"]

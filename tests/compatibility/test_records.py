"""What a leader of one release leaves to starts of the other: how it failed, what it declares."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from compatibility.applications import DIES, LATE, Deployed
from compatibility.release import Release
from support import alembic_projects
from support.notes_application import BROKEN, GOOD, ROWS

from automigrator import Migrator

pytestmark = [
    pytest.mark.plugins,
    pytest.mark.long(
        "postgresql",
        "template",
        "dump",
        "counted_together[new then old",
        "counted_together",
        "follower_inherits",
        "copy_is_listed",
    ),
]

Both = tuple[Release, Release]


@pytest.mark.parametrize(
    ("both", "recovery"),
    [("old then new", ["log-and-continue"]), ("new then old", [])],
    indirect=["both"],
)
def test_a_follower_inherits_the_failure(both: Both, app: Deployed, recovery: list[str]) -> None:
    first, second = both
    app.traced(app.held + BROKEN)
    start = app.start_with(*recovery)
    with first.begun(start) as leader:
        app.await_trace()
        with second.begun(start) as follower:
            follower.await_waiting()
            app.go()
            told, inherited = leader.ended(), follower.ended()
    assert told.outcome == inherited.outcome == ("degraded" if recovery else "failed")
    (failure,), (same,) = told.report["failures"], inherited.report["failures"]
    assert same["message"] == failure["message"] and "absent" in same["message"]
    assert (same["kind"], same["revision"], same["state"]) == ("revision", "r2", "clean")
    assert "tried the same while this process waited" in inherited.said
    assert len(app.trace) == 1
    assert (app.notes(), app.heads) == (ROWS, {"r1"})


@pytest.mark.long("new then old-postgresql")
def test_failed_starts_are_counted_together(both: Both, app: Deployed) -> None:
    """One dies, one fails, and the third touches nothing: each reads what the other wrote."""
    first, second = both
    app.traced(f"if not os.path.exists({str(app.root / 'go')!r}):\n    {DIES}\n{BROKEN}")
    start = app.start_with(max_failed_starts=2)
    first.killed(start)
    assert recorded(app) == ("begun", 1)
    app.go()
    ended = second.run(start)
    assert (ended.outcome, ended.report["failed_starts"]) == ("failed", 2)
    assert recorded(app) == ("failed", 2)
    ended = first.run(start)
    assert (ended.outcome, ended.report["attempts"]) == ("failed", 0)
    assert "2 starts in a row have failed at these revisions" in ended.said
    assert len(app.trace) == 2
    assert (app.notes(), app.heads) == (ROWS, {"r1"})
    asyncio.run(Migrator(app.target()).clear())
    assert app.doctor().record is None
    ended = second.run(start)
    assert (ended.report["attempts"], ended.report["failed_starts"]) == (1, 1)


def recorded(app: Deployed) -> tuple[str, int]:
    """How the last start ended, and how many have failed in a row, as this code reads it."""
    found = app.doctor().to_dict()
    return found["last_outcome"], found["failed_starts"]


@pytest.mark.long("new then old-postgresql", "old then new")
def test_a_declaration_of_newer_code_lets_older_code_start(
    both: Both, app: Deployed, tmp_path: Path
) -> None:
    first, second = both
    app.deploy(GOOD)
    alembic_projects.revision(
        tmp_path / "migrations" / "versions", "r3", "r2", header="compatible_with = 'r2'"
    )
    assert first.run(app.start_with(target={"version": "2.0"})).outcome == "migrated"

    older = Deployed(tmp_path / "older", app.url, started=False)
    ended = second.run(older.start_with())
    assert (ended.outcome, ended.report["failures"][0]["kind"]) == ("failed", "ahead")
    assert "where version 2.0 brought it" in ended.said
    assert "works with code that knows r2" in ended.said

    older.deploy(GOOD)
    ended = second.run(older.start_with())
    assert ended.outcome == "current"
    assert "declares itself compatible with this code, as with all since r2" in ended.said
    assert (app.notes(), app.heads) == (ROWS, {"r3"})


def test_an_old_copy_is_listed_and_pruned(old: Release, new: Release, copied: Deployed) -> None:
    copied.deploy(GOOD)
    assert old.run(copied.start_with(copied.backup())).outcome == "migrated"
    (before,) = copied.copies()
    assert copied.notes_in(before) == ROWS
    copied.write_late()
    copied.deploy('op.drop_table("tags")')
    assert new.run(copied.start_with(copied.backup(keep=1))).outcome == "migrated"
    (after,) = copied.copies()
    assert after != before
    rows = [*ROWS, LATE]
    assert (copied.notes_in(after), copied.notes(), copied.heads) == (rows, rows, {"r3"})

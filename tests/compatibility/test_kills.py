"""A process with the old code is killed; the next start, with the new code, ends what it began."""

from __future__ import annotations

import re
import shutil

import pytest
from compatibility.applications import BREAD, DIES, HALF_WAY, LATE, Deployed
from compatibility.release import Release
from support.notes_application import BROKEN, GOOD, ROWS, UNIQUE

pytestmark = [
    pytest.mark.plugins,
    pytest.mark.skipif(shutil.which("pg_dump") is None, reason="no PostgreSQL client programs"),
    pytest.mark.long(
        "postgresql",
        "template",
        "dump",
        "restore_is_finished",
        "new then old",
        "keeps_a_copy",
        "names_the_data",
    ),
]

NOT_ATOMIC = "\nwith op.get_context().autocommit_block():\n    pass"

RESTORE, PURGE = "event restore-started", "event recreate-started"
RESTORES = [
    ("sqlite", (RESTORE, "sql BEGIN EXCLUSIVE")),
    ("sqlite", (RESTORE, "sql COMMIT", "os.rename .*-journal")),
    ("template", (RESTORE, "sql ALTER DATABASE .*_side_")),
    ("template", (RESTORE, "sql COMMIT", "sql COMMENT ON DATABASE")),
    ("dump", (RESTORE, "os.rename .*_replaced_", "sql COMMENT ON DOMAIN")),
]
"""Where a restore is killed: before it has put back the old rows, or between that and its end."""
SWAPPED = {
    "sqlite": (PURGE, "os.rename .*-journal", "os.rename .*-journal"),
    "postgresql": (PURGE, "sql SET LOCAL lock_timeout", "sql COMMIT", "sql (ALTER|DROP) DATABASE"),
}
"""When a purge has put the fresh database in the old one's place."""


def place_in(said: str, before: str) -> str:
    """The place that a note names after some words."""
    found = re.search(rf"{before} (\S+)", said)
    assert found is not None, said
    return found[1]


@pytest.mark.long("new then old-template")
@pytest.mark.parametrize(
    ("both", "copied"),
    [
        ("old then new", "sqlite"),
        ("old then new", "template"),
        ("old then new", "dump"),
        ("new then old", "sqlite"),
        ("new then old", "template"),
    ],
    indirect=True,
)
def test_half_a_migration_is_undone(both: tuple[Release, Release], copied: Deployed) -> None:
    first, second = both
    copied.deploy(HALF_WAY + DIES)
    first.killed(copied.start_with(copied.backup()))
    assert (copied.notes(), copied.heads) == (BREAD, {"r1"})
    copied.mended()
    ended = second.run(copied.start_with())
    assert ended.outcome == "migrated"
    assert "put back from" in ended.said
    assert copied.notes_in(place_in(ended.said, "what it held until now is in")) == BREAD
    assert (copied.notes(), copied.heads) == (ROWS, {"r2"})
    assert copied.tables == {"alembic_version", "notes", "tags"}


def test_a_migration_that_had_ended_stays(old: Release, new: Release, copied: Deployed) -> None:
    copied.deploy(GOOD)
    old.killed(copied.start_with(copied.backup(), dies_at=("event attempt-finished",)))
    copied.write_late()
    ended = new.run(copied.start_with())
    assert ended.outcome == "current"
    assert "an earlier migration had ended at r2" in ended.said
    assert (copied.notes(), copied.heads) == ([*ROWS, LATE], {"r2"})
    (copy,) = copied.copies()
    assert copied.notes_in(copy) == ROWS
    assert "earlier migration" not in new.run(copied.start_with()).said


@pytest.mark.long("sqlite-False")
@pytest.mark.parametrize(
    ("copied", "atomic"),
    [("sqlite", True), ("sqlite", False), ("template", True), ("dump", False)],
    indirect=["copied"],
)
def test_a_migration_that_had_changed_nothing_is_begun_again(
    old: Release, new: Release, copied: Deployed, atomic: bool
) -> None:
    copied.deploy(f'op.execute("DELETE FROM notes")\n{DIES}' if atomic else DIES + NOT_ATOMIC)
    old.killed(copied.start_with(copied.backup()))
    if atomic:
        copied.write_late()
    copied.mended()
    ended = new.run(copied.start_with())
    assert ended.outcome == "migrated"
    assert "an earlier migration had changed nothing" in ended.said
    assert (copied.notes(), copied.heads) == ([*ROWS, LATE] if atomic else ROWS, {"r2"})


@pytest.mark.parametrize(("copied", "moment"), RESTORES, indirect=["copied"])
def test_a_restore_is_finished(
    old: Release, new: Release, copied: Deployed, moment: tuple[str, ...]
) -> None:
    copied.deploy(HALF_WAY + BROKEN)
    old.killed(copied.start_with(copied.backup(), dies_at=moment))
    copied.mended()
    ended = new.run(copied.start_with())
    assert ended.outcome == "migrated"
    assert (copied.notes(), copied.heads) == (ROWS, {"r2"})
    assert copied.tables == {"alembic_version", "notes", "tags"}
    (copy,) = copied.copies()
    assert copied.notes_in(copy) == ROWS
    kinds = {"sqlite": {"snapshot", "replaced"}, "template": {"snapshot", "undone"}, "dump": set()}
    assert {each.kind for each in copied.doctor().copies} == kinds[copied.copy]
    assert "earlier migration" not in new.run(copied.start_with()).said


def killed_when_swapped(old: Release, app: Deployed, *, set_aside: bool) -> None:
    app.deploy(UNIQUE)
    moment = SWAPPED["postgresql" if app.is_postgres else "sqlite"]
    old.killed(app.start_with(("purge", {"set_aside": set_aside}), dies_at=moment))


def set_aside_by(app: Deployed) -> str:
    """Where the one purge that there was has left the old rows."""
    (place,) = [each.place for each in app.doctor().copies if each.kind == "purged"]
    return place


def test_a_purge_keeps_a_copy_and_prunes_it_later(
    old: Release, new: Release, app: Deployed
) -> None:
    killed_when_swapped(old, app, set_aside=True)
    # on a server the old release had nothing left to do
    told = "current" if app.is_postgres else "recovered"
    assert new.run(app.start_with()).outcome == told
    assert (app.notes(), app.heads) == ([], {"r2"})
    assert app.notes_in(set_aside_by(app)) == ROWS
    app.write_late()
    app.execute("CREATE TABLE tags (id INTEGER)")
    app.deploy(GOOD)
    assert new.run(app.start_with(("purge", {"keep": 1}))).outcome == "recovered"
    assert (app.notes(), app.heads) == ([], {"r3"})
    assert app.notes_in(set_aside_by(app)) == [LATE]


def test_a_purge_names_the_data_it_would_delete(old: Release, new: Release, app: Deployed) -> None:
    """On a server, where it was not yet deleted; a file is overwritten at once."""
    killed_when_swapped(old, app, set_aside=False)
    ended = new.run(app.start_with())
    assert (ended.outcome, app.notes(), app.heads) == ("recovered", [], {"r2"})
    if app.is_postgres:
        place = place_in(ended.said, "the old data is in")
        assert place == set_aside_by(app) and app.notes_in(place) == ROWS

"""A rollback has the snapshot, the journal and the failure of a run; and it never discards."""

from __future__ import annotations

import asyncio
import shutil

import pytest
from compatibility.applications import BREAD, DIES, HALF_WAY, LATE, Deployed
from compatibility.release import Release
from support.notes_application import BROKEN, GOOD, ROWS

from automigrator import Migrator

pytestmark = [
    pytest.mark.plugins,
    pytest.mark.skipif(shutil.which("pg_dump") is None, reason="no PostgreSQL client programs"),
    pytest.mark.long(
        "template",
        "dump",
        "takes",
        "killed_half",
        "next_rollback",
        "had_ended",
        "whole_rev",
        "cancelled",
    ),
]

DOWN = 'op.drop_table("tags")'
PER_MIGRATION = "transaction_per_migration=True, connection="


def migrated(new: Release, app: Deployed, *downgrades: str) -> None:
    """The database is at the last of r2, r3 and so on, which have these downgrades."""
    for number, downgrade in enumerate(downgrades):
        app.deploy(GOOD if not number else "pass", downgrade=downgrade)
    ended = new.run(app.start_with())
    assert ended.outcome == "migrated", ended.said


def per_migration(app: Deployed) -> None:
    """Let every revision have a transaction of its own."""
    env = app.config.with_name("migrations") / "env.py"
    text = env.read_text()
    assert "connection=" in text
    env.write_text(text.replace("connection=", PER_MIGRATION))


def with_downgrade(app: Deployed, revision: str, body: str) -> None:
    """Deploy another downgrade of a revision."""
    path = app.config.with_name("migrations") / "versions" / f"{revision}_.py"
    text, line, _ = path.read_text().partition("def downgrade() -> None:\n")
    path.write_text(f"{text}{line}    {body}\n")


def test_a_rollback_takes_the_snapshot_that_is_configured_and_says_so(
    new: Release, app: Deployed
) -> None:
    migrated(new, app, DOWN)

    ended = new.run(app.start_with(app.backup(), rollback="r1"))

    assert (ended.outcome, app.heads) == ("reverted", {"r1"})
    (copy,) = app.copies()
    assert app.notes_in(copy) == ROWS and copy in ended.said
    assert "tags" not in app.tables
    assert new.run(app.start_with()).outcome == "migrated"  # nothing is left to repair


def test_one_that_fails_half_way_is_put_back_and_its_failure_is_whole(
    new: Release, app: Deployed
) -> None:
    migrated(new, app, f"{HALF_WAY}{BROKEN}")

    ended = new.run(app.start_with(app.backup(), "purge", rollback="r1"))

    assert (ended.outcome, app.notes(), app.heads) == ("failed", ROWS, {"r2"})
    (failure,) = ended.report["failures"]
    assert failure["revision"] == "r2" and "absent" in failure["statement"]
    assert failure["state"] == "partial-within-revision" and failure["applied"] == []
    assert ended.report["state"] == "clean" and ended.report["after"] == ["r2"]
    assert "restored from" in ended.said and "tags" in app.tables


def test_one_that_is_killed_half_way_is_put_back_by_the_next_start(
    new: Release, app: Deployed
) -> None:
    migrated(new, app, HALF_WAY + DIES)
    new.killed(app.start_with(app.backup(), rollback="r1"))
    assert (app.notes(), app.heads) == (BREAD, {"r2"})

    ended = new.run(app.start_with())

    assert ended.outcome == "current" and "put back from" in ended.said
    assert (app.notes(), app.heads) == (ROWS, {"r2"})


def test_one_that_is_killed_between_two_revisions_is_put_back_too(
    new: Release, app: Deployed
) -> None:
    """The revision in between is the rollback's own, and not somebody's."""
    per_migration(app)
    migrated(new, app, DIES, "op.execute('DELETE FROM notes')", "pass")
    new.killed(app.start_with(app.backup(), rollback="r1"))
    assert (app.notes(), app.heads) == ([], {"r2"})

    ended = new.run(app.start_with())

    assert ended.outcome == "current" and "put back from" in ended.said
    assert (app.notes(), app.heads) == (ROWS, {"r4"})


def test_the_next_rollback_repairs_one_that_was_killed_too(new: Release, app: Deployed) -> None:
    migrated(new, app, HALF_WAY + DIES)
    new.killed(app.start_with(app.backup(), rollback="r1"))
    with_downgrade(app, "r2", DOWN)

    ended = new.run(app.start_with(app.backup(), rollback="r1"))

    assert ended.outcome == "reverted" and "put back from" in ended.said
    assert (app.notes(), app.heads) == (ROWS, {"r1"})


def test_one_that_had_ended_when_it_was_killed_stays(new: Release, app: Deployed) -> None:
    went = app.root / "went"
    body = f"open({str(went)!r}, 'w').close()\nop.execute('DELETE FROM notes WHERE id <> 1')"
    migrated(new, app, f"{body}\n{DOWN}")
    env = app.config.with_name("migrations") / "env.py"
    with env.open("a") as file:  # its last commit is done by then
        file.write(f"\nimport os\nif os.path.exists({str(went)!r}):\n    {DIES}\n")
    new.killed(app.start_with(app.backup(), rollback="r1"))
    went.unlink()
    app.write_late()

    ended = new.run(app.start_with(target={"revision": "r1"}))

    assert ended.outcome == "current" and "had ended at r1" in ended.said
    assert (app.notes(), app.heads) == ([*BREAD, LATE], {"r1"})


def test_whole_revisions_that_were_undone_are_told_where_nothing_reverts(
    new: Release, app: Deployed
) -> None:
    per_migration(app)
    migrated(new, app, DOWN, BROKEN, "pass")

    ended = new.run(app.start_with("purge", rollback="base"))

    (failure,) = ended.report["failures"]
    assert (ended.outcome, app.heads) == ("failed", {"r3"})
    assert (failure["state"], failure["applied"]) == ("partial-at-boundary", ["r4"])
    assert [each["revision"] for each in ended.report["reverted"]] == ["r4"]
    assert failure["rollback"] and "undone: r4" in ended.error
    assert app.notes() == ROWS  # a rollback never purges


async def test_one_that_is_cancelled_is_put_back_at_once(app: Deployed) -> None:
    app.deploy(GOOD, downgrade=f"{HALF_WAY}\nimport time\ntime.sleep(0.5)\n{BROKEN}")
    await app.start()
    migrator = Migrator(app.target(), recovery=[app.backup()])
    events = migrator.events()
    task = asyncio.create_task(migrator.rollback("r1"))
    async for event in events:
        if event.name == "revision-started":
            break
    await asyncio.sleep(0.2)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task

    assert (app.notes(), app.heads) == (ROWS, {"r2"})
    assert (await app.start()).outcome == "current"

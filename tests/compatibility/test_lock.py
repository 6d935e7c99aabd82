"""Processes of two releases meet at the lock, as in a rolling deployment: one of them migrates."""

from __future__ import annotations

from pathlib import Path

import pytest
from compatibility.applications import Deployed
from compatibility.release import Release
from support import alembic_projects
from support.notes_application import GOOD, ROWS

pytestmark = pytest.mark.long(
    "new then old", "waits_and_follows", "old then new-postgresql", "version_table_of_its_own"
)

Both = tuple[Release, Release]

ONCE = """
op.execute("INSERT INTO notes VALUES (7, 'once')")
"""


def test_the_other_release_waits_and_follows(both: Both, app: Deployed) -> None:
    first, second = both
    app.traced(ONCE + app.held)
    with first.begun(app.start_with()) as leader:
        app.await_trace()
        with second.begun(app.start_with()) as follower:
            follower.await_waiting()
            assert app.doctor().holder
            app.go()
            assert (leader.ended().outcome, follower.ended().outcome) == ("migrated", "current")
    assert len(app.trace) == 1
    assert (app.notes(), app.heads) == ([*ROWS, (7, "once")], {"r2"})


def test_the_other_release_takes_over_from_a_killed_leader(both: Both, app: Deployed) -> None:
    first, second = both
    app.traced(ONCE + app.held)
    with first.begun(app.start_with()) as leader:
        app.await_trace()
        with second.begun(app.start_with()) as follower:
            follower.await_waiting()
            leader.kill()
            app.go()
            assert follower.ended().outcome == "migrated"
    assert len({pid for pid, _ in app.trace}) == 2
    assert (app.notes(), app.heads) == ([*ROWS, (7, "once")], {"r2"})


def test_a_version_table_of_its_own_has_the_same_lock(
    old: Release, new: Release, tmp_path: Path, postgres_url: str
) -> None:
    app = Deployed(tmp_path, postgres_url, kind="version_table", started=False)
    app.traced(app.held + GOOD)
    target = {"version_table": "my_versions", "version_table_schema": "meta"}
    start = app.start_with(target=target)
    with old.begun(start) as leader:
        app.await_trace()
        with new.begun(start) as follower:
            follower.await_waiting()
            app.go()
            assert (leader.ended().outcome, follower.ended().outcome) == ("migrated", "current")
    assert len(app.trace) == 1
    assert alembic_projects.heads(app.url, "meta.my_versions") == {"r2"}

"""Processes of two releases meet at the lock, as in a rolling deployment: one of them migrates."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from compatibility.applications import Deployed
from compatibility.release import Release
from sqlalchemy import make_url
from support import alembic_projects
from support.notes_application import GOOD, ROWS
from support.pgbouncer import BINARY, pooled
from support.postgres_server import Server

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


@pytest.mark.skipif(BINARY is None, reason="pgbouncer is not installed")
@pytest.mark.long("old then new")  # they take seconds each
class TestBehindAnAlias:
    """The older release locks by the alias, this one by the name of the database itself."""

    @pytest.fixture
    def aliased(self, tmp_path: Path, postgres_url: str, pooler_folder: Path) -> Iterator[Deployed]:
        app = Deployed(tmp_path, postgres_url)
        alias = f"{make_url(postgres_url).database}_alias"
        with pooled(postgres_url, pooler_folder, "session", alias, others=True) as url:
            app.url = url
            yield app

    def test_the_other_release_waits_and_follows(self, both: Both, aliased: Deployed) -> None:
        first, second = both
        aliased.traced(ONCE + aliased.held)
        with first.begun(aliased.start_with()) as leader:
            aliased.await_trace()
            with second.begun(aliased.start_with()) as follower:
                follower.await_waiting()
                assert aliased.doctor().holder
                aliased.go()
                ended = leader.ended(), follower.ended()
        assert [each.outcome for each in ended] == ["migrated", "current"]
        assert len(aliased.trace) == 1
        assert (aliased.notes(), aliased.heads) == ([*ROWS, (7, "once")], {"r2"})

    def test_the_other_release_begins_when_what_a_killed_leader_still_runs_has_ended(
        self, both: Both, aliased: Deployed, postgres_server: Server
    ) -> None:
        first, second = both
        aliased.traced(ONCE + f"{aliased.slow(2)}\n")
        running = (
            "select pid from pg_stat_activity "
            "where query = 'SELECT pg_sleep(2)' and state = 'active'"
        )
        with first.begun(aliased.start_with()) as leader:
            aliased.await_trace()
            with second.begun(aliased.start_with()) as follower:
                follower.await_waiting()
                while not (session := postgres_server.execute(running)):
                    time.sleep(0.01)
                leader.kill()
                aliased.await_trace(2)
                assert session[0] not in postgres_server.execute(running)
                assert follower.ended().outcome == "migrated"
        assert len({pid for pid, _ in aliased.trace}) == 2
        assert (aliased.notes(), aliased.heads) == ([*ROWS, (7, "once")], {"r2"})


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

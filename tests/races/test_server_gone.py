"""The lock's session is cut, or the whole server goes away, while revisions run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from support import postgres_server
from support.blackhole import cable
from support.notes_application import GOOD, ROWS
from support.raced_application import Raced
from support.starters import Start

pytestmark = pytest.mark.long

SLOW = 'op.execute("SELECT pg_sleep(0.5)")\n'
INSERTED = "op.execute(\"INSERT INTO notes VALUES (9, 'late')\")"
LOCK_SESSION = """
SELECT pg_terminate_backend(pid) FROM (
    SELECT DISTINCT pid FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND pid <> pg_backend_pid()) holders
"""
OURS = "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'automigrator%'"
on_postgres = pytest.mark.parametrize("kind_of_database", ["postgresql"])


@on_postgres
@pytest.mark.parametrize("env", ["async", "per_migration", "generic"])
def test_nothing_is_committed_when_the_session_of_the_lock_was_cut(
    new_application: Callable[..., Raced], postgres_server: postgres_server.Server, env: str
) -> None:
    raced = new_application(kind=env)
    raced.traced(SLOW + INSERTED, GOOD)
    with raced.begun(raced.start_of()) as processes:
        raced.await_trace()
        assert postgres_server.execute(LOCK_SESSION) == [(True,)]
        (ended,) = processes.ended()
    assert (ended.error, ended.kinds) == ("MigrationError", ["lock-timeout"])
    assert "another process may migrate by now" in ended.text
    assert (raced.heads, raced.notes()) == ({"r1"}, ROWS)
    assert postgres_server.execute(OURS) == []
    (again,) = raced.together(raced.start_of(), 1)
    assert again.outcome == "migrated"


@pytest.fixture
def stoppable() -> Iterator[tuple[postgres_server.Server, Callable[[], Callable[[], object]]]]:
    with postgres_server.stoppable() as both:
        yield both


@pytest.mark.parametrize("env", ["async", "generic"])
def test_a_server_that_stops_is_a_failure_that_says_so_and_the_next_start_finishes(
    stoppable: tuple[postgres_server.Server, Callable[[], Callable[[], object]]],
    tmp_path: Path,
    env: str,
) -> None:
    server, stop = stoppable
    server.create("stopped")
    raced = Raced(tmp_path / "stopped", server.url("stopped"), kind=env)
    raced.traced(SLOW + INSERTED, GOOD)
    with raced.begun(*[raced.start_of(connect_timeout=2)] * 3) as processes:
        raced.await_trace()
        restart = stop()
        stopped_at = time.monotonic()
        ended = processes.ended()
    assert {each.outcome for each in ended} == {"failed"}
    assert [each.kinds for each in ended] == [["unreachable"]] * 3, ended
    assert max(each.ended_at for each in ended) - stopped_at < 10
    restart()
    (again,) = raced.together(raced.start_of(), 1)
    assert again.outcome == "migrated"
    assert raced.heads == {"r3"}
    assert raced.notes() == [*ROWS, (9, "late")]


def cut_off(raced: Raced, port: int, **options: Any) -> Start:
    """A start whose connections lead through this port, and are not waited for long."""
    through = make_url(raced.url).set(host="127.0.0.1", port=port)
    start = raced.start_of(lease_s=2, engine={"connect_args": {"timeout": 2}}, **options)
    return replace(start, url=through.render_as_string(hide_password=False))


@on_postgres
@pytest.mark.parametrize("drive", ["given", "own"])
def test_a_leader_whose_network_is_cut_gives_up_and_another_takes_over(
    raced: Raced, drive: str
) -> None:
    raced.traced("""op.execute("INSERT INTO notes SELECT 9, 'late' FROM pg_sleep(2)")""")
    server = make_url(raced.url)
    with cable(str(server.host), server.port or 5432) as network:  # noqa: SIM117
        with raced.begun(cut_off(raced, network.port, drive=drive)) as first:
            raced.await_trace()
            with raced.begun(raced.start_of()) as second:
                network.pull()
                (after,) = second.ended()
                (before,) = first.ended(limit_s=30)
    assert after.outcome == "migrated"
    assert (before.error, before.kinds) == ("MigrationError", ["unreachable"]), before
    assert raced.notes() == [*ROWS, (9, "late")]


@on_postgres
def test_one_whose_network_is_cut_while_it_waits_gives_up(raced: Raced) -> None:
    raced.traced(f"{raced.slow(4)}\n{GOOD}")
    server = make_url(raced.url)
    with cable(str(server.host), server.port or 5432) as network:  # noqa: SIM117
        with raced.begun(raced.start_of()) as first:
            raced.await_trace()
            with raced.begun(cut_off(raced, network.port)) as second:
                time.sleep(1)
                network.pull()
                (waiting,) = second.ended(limit_s=30)
                (leading,) = first.ended()
    assert (waiting.error, waiting.kinds) == ("MigrationError", ["unreachable"]), waiting
    assert leading.outcome == "migrated"

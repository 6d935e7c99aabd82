"""The process that migrates is killed, or frozen: the next one finishes, and never both."""

from __future__ import annotations

import random
import time

import pytest
from support.notes_application import GOOD, ROWS
from support.raced_application import PROCESSES, ROUNDS, Raced, outcomes

pytestmark = pytest.mark.long("postgresql", "bounded_and_says", "any_moment")

INSERTED = """
import os
op.create_table("counted", sa.Column("pid", sa.Integer))
op.execute(f"INSERT INTO counted VALUES ({os.getpid()})")
"""
INDEXED_ANEW = """
with op.get_context().autocommit_block():
    op.drop_index("by_text", "notes", if_exists=True, postgresql_concurrently=True)
    op.create_index("by_text", "notes", ["text"], postgresql_concurrently=True)
"""
"""A revision that may be killed at any moment and run again, as one without a transaction must."""


def slow_revisions(raced: Raced) -> list[str]:
    upgrades = [INSERTED, GOOD, INDEXED_ANEW, 'op.add_column("notes", sa.Column("a", sa.Integer))']
    return [f"{raced.slow(0.1)}\n{upgrade}" for upgrade in upgrades]


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_the_next_finishes_when_the_leader_is_killed_at_any_moment(
    raced: Raced, round_: int, seed: int
) -> None:
    raced.traced(*slow_revisions(raced))
    with raced.begun(*[raced.start_of()] * PROCESSES) as processes:
        leader = raced.await_trace()
        time.sleep(random.Random(seed + round_).uniform(0, 0.6))
        processes.kill(leader)
        ended = processes.ended()
    found = outcomes(ended)
    assert found.pop("killed", 0) <= 1
    assert found.get("migrated", 0) <= 1 and sum(found.values()) == found.get("current", 0) + (
        found.get("migrated", 0)
    ), found
    assert len({pid for pid, _ in raced.trace}) <= 2
    assert len(raced.rows("SELECT pid FROM counted")) == 1
    assert (raced.heads, raced.notes()) == ({"r5"}, ROWS)
    assert [row[0] for row in raced.rows("SELECT a FROM notes")] == [None] * len(ROWS)
    if raced.is_postgres:
        assert raced.rows("SELECT 1 FROM pg_index WHERE NOT indisvalid") == []


@pytest.mark.parametrize("kind_of_database", ["postgresql"])
def test_a_statement_of_a_dead_leader_is_ended_before_the_next_begins(raced: Raced) -> None:
    once = raced.root / "once"
    raced.traced(
        f"""
if not os.path.exists({str(once)!r}):
    open({str(once)!r}, "w").close()
    with op.get_context().autocommit_block():
        op.execute("INSERT INTO notes SELECT 9, 'late' FROM pg_sleep(30)")
"""
    )
    with raced.begun(*[raced.start_of()] * 3) as processes:
        leader = raced.await_trace()
        time.sleep(0.3)
        processes.kill(leader)
        killed_at = time.monotonic()
        ended = processes.ended(but=[leader])
    assert outcomes(ended) == {"current": 1, "migrated": 1}
    assert max(each.ended_at for each in ended) - killed_at < 10
    running = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(30)%' AND pid <> "
    assert raced.rows(running + "pg_backend_pid()") == []
    assert (raced.heads, raced.notes()) == ({"r2"}, ROWS)


@pytest.mark.parametrize("kind_of_database", ["postgresql"])
@pytest.mark.parametrize("at", ["in a statement", "between statements"])
def test_a_frozen_leader_loses_its_lock_and_commits_nothing_when_it_thaws(
    raced: Raced, at: str
) -> None:
    waits = (
        'op.execute("SELECT pg_sleep(0.5)")'
        if at == "in a statement"
        else ("import time; time.sleep(0.5)")
    )
    raced.traced(INSERTED.replace("op.execute", f"{waits}\nop.execute"), GOOD)
    with raced.begun(*[raced.start_of(lease_s=2)] * 3) as processes:
        leader = raced.await_trace()
        time.sleep(0.1)
        processes.freeze(leader)
        others = processes.ended(but=[leader])
        processes.thaw(leader)
        (thawed,) = (each for each in processes.ended() if each.pid == leader)
    assert outcomes(others) == {"current": 1, "migrated": 1}
    assert max(each.seconds for each in others) < 12
    assert (thawed.error, thawed.kinds) == ("MigrationError", ["lock-timeout"]), thawed
    (next_leader,) = (each.pid for each in others if each.outcome == "migrated")
    assert raced.rows("SELECT pid FROM counted") == [(next_leader,)]
    assert raced.heads == {"r3"}


@pytest.mark.parametrize("kind_of_database", ["sqlite"])
def test_waiting_for_a_frozen_leader_is_bounded_and_says_who_it_is(raced: Raced) -> None:
    raced.traced(raced.slow(0.5) + "\n" + GOOD)
    with raced.begun(*[raced.start_of(lock_timeout=2)] * 3) as processes:
        leader = raced.await_trace()
        processes.freeze(leader)
        others = processes.ended(but=[leader])
        processes.thaw(leader)
        (thawed,) = (each for each in processes.ended() if each.pid == leader)
    assert [each.kinds for each in others] == [["lock-timeout"]] * 2
    assert all(f"still held by process {leader} on " in each.text for each in others)
    assert all("1/1 r2" in each.text for each in others), "how far it is"
    assert thawed.outcome == "migrated"

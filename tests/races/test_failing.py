"""A revision that fails, met by many at once: tried once, answered once, told to all."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence

import pytest
from support.notes_application import BROKEN, GOOD, HALF_WAY, ROWS, UNIQUE
from support.raced_application import PROCESSES, ROUNDS, Raced, outcomes
from support.starters import Ended

pytestmark = [pytest.mark.plugins, pytest.mark.long]

SLOWLY = "import time; time.sleep(0.7)\n"
"""Long enough for every process to have begun its run before the leader has ended its own."""


def notes_of(ended: Sequence[Ended]) -> str:
    return "\n".join(note for each in ended if each.report for note in each.report["notes"])


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_one_purges_and_the_others_find_the_new_database(raced: Raced, round_: int) -> None:
    raced.traced(SLOWLY + UNIQUE)
    ended = raced.together(raced.start_of("purge", "log-and-continue"))
    assert outcomes(ended) == {"current": PROCESSES - 1, "recovered": 1}
    assert notes_of(ended).count("the old data is in") == 1
    assert len({pid for pid, _ in raced.trace}) == 1
    assert (raced.heads, raced.notes()) == ({"r2"}, [])


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_one_tries_what_fails_on_a_new_database_too_and_nobody_purges(
    raced: Raced, round_: int
) -> None:
    raced.traced(SLOWLY + BROKEN)
    ended = raced.together(raced.start_of("purge", "log-and-continue"))
    assert outcomes(ended) == {"degraded": PROCESSES}
    assert len({pid for pid, _ in raced.trace}) == 1, raced.trace
    assert notes_of(ended).count("tried the same while this process waited") == PROCESSES - 1
    assert {tuple(each.kinds) for each in ended} == {("revision",)}
    assert (raced.heads, raced.notes()) == ({"r1"}, ROWS)


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_one_restores_and_the_others_raise_its_failure_at_once(raced: Raced, round_: int) -> None:
    raced.traced(SLOWLY + HALF_WAY)
    ended = raced.together(raced.start_of("backup-restore"))
    assert outcomes(ended) == {"failed": PROCESSES}
    assert {each.error for each in ended} == {"MigrationError"}
    assert len({pid for pid, _ in raced.trace}) == 1, raced.trace
    (leader,) = {pid for pid, _ in raced.trace}
    (restored_at,) = (each.ended_at for each in ended if each.pid == leader)
    # an idle machine needs less than three; nobody waits for the lock's 15 minutes
    assert max(each.ended_at for each in ended) - restored_at < 30
    assert len({each.text.splitlines()[0] for each in ended}) == 1
    assert all("absent" in each.text for each in ended)
    assert (raced.heads, raced.notes()) == ({"r1"}, ROWS)


@pytest.mark.parametrize("env", ["async", "per_migration"])
def test_revisions_that_stay_applied_do_not_make_the_others_try_the_next_one_again(
    new_application: Callable[..., Raced], env: str
) -> None:
    raced = new_application(kind=env)
    raced.traced(GOOD, SLOWLY + BROKEN)
    ended = raced.together(raced.start_of())
    assert outcomes(ended) == {"failed": PROCESSES}
    assert [revision for _, revision in raced.trace] == ["r2", "r3"]
    assert {tuple(each.kinds) for each in ended} == {("revision",)}
    assert raced.heads == ({"r1"} if env == "async" else {"r2"})


@pytest.mark.parametrize("env", ["async", "per_migration"])
def test_one_that_still_looked_when_the_leader_failed_is_told_as_well(
    new_application: Callable[..., Raced], env: str
) -> None:
    raced = new_application(kind=env)
    raced.traced(GOOD, BROKEN)
    slow_to_look = raced.start_of(load=functools.partial(time.sleep, 2))
    with raced.begun(raced.start_of(), slow_to_look) as processes:
        first, second = processes.ended()
    assert [revision for _, revision in raced.trace] == ["r2", "r3"]
    assert first.text.splitlines()[0] == second.text.splitlines()[0]
    assert second.report is not None and "it was not repeated" in second.report["notes"][0]


def test_a_later_start_and_another_deployment_try_again(raced: Raced) -> None:
    raced.traced(BROKEN)
    first = raced.together(raced.start_of("log-and-continue"), 2)
    assert outcomes(first) == {"degraded": 2}
    (again,) = raced.together(raced.start_of("log-and-continue"), 1)
    assert again.outcome == "degraded"
    assert len({pid for pid, _ in raced.trace}) == 2

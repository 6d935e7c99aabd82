"""Many processes start at the same moment: one applies, the others find it done."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.notes_application import GOOD, ROWS
from support.raced_application import COUNTED, DATA_STEP, PROCESSES, ROUNDS, Raced, outcomes

pytestmark = pytest.mark.long("mode_wait", "not_there")

CONCURRENTLY = """
with op.get_context().autocommit_block():
    op.create_index("by_text", "notes", ["text"], postgresql_concurrently=True)
"""
DEPLOYED = (COUNTED, DATA_STEP, GOOD, CONCURRENTLY)
HEAD = "r5"


@pytest.mark.long("[postgresql")
@pytest.mark.parametrize("round_", range(ROUNDS))
def test_one_applies_a_new_revision_and_its_data_step_runs_once(raced: Raced, round_: int) -> None:
    # slow, so that any two that both think they lead do meet
    raced.traced(f"{raced.slow(0.2)}\n{COUNTED}", *DEPLOYED[1:])
    ended = raced.together(raced.start_of())
    assert outcomes(ended) == {"current": PROCESSES - 1, "migrated": 1}
    (leader,) = (each for each in ended if each.report and each.report["leader"])
    assert raced.rows("SELECT pid FROM counted") == [(leader.pid,)]
    assert raced.trace == [(leader.pid, f"r{number}") for number in range(2, 6)]
    assert (raced.heads, raced.notes()) == ({HEAD}, ROWS)


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_one_creates_and_migrates_a_database_that_is_not_there(
    new_application: Callable[..., Raced], round_: int
) -> None:
    raced = new_application(started=False, absent=True)
    raced.traced(*DEPLOYED)
    assert outcomes(raced.together(raced.start_of())) == {"current": PROCESSES - 1, "migrated": 1}
    assert len(raced.rows("SELECT pid FROM counted")) == 1
    assert raced.heads == {HEAD}


def test_those_that_wait_in_mode_wait_are_current_when_another_process_has_migrated(
    raced: Raced,
) -> None:
    raced.traced(raced.slow(0.5), *DEPLOYED)
    waiting, leading = raced.start_of(mode="wait"), raced.start_of()
    with raced.begun(waiting, leading, waiting) as processes:
        ended = processes.ended()
    assert [each.outcome for each in ended] == ["current", "migrated", "current"]
    assert {pid for pid, _ in raced.trace} == {ended[1].pid}


def test_none_migrates_in_mode_wait_and_the_limit_is_said(raced: Raced) -> None:
    raced.traced(GOOD)
    ended = raced.together(raced.start_of(mode="wait", lock_timeout=1), 2)
    assert outcomes(ended) == {"FollowTimeoutError": 2}
    assert "no other process has migrated within 1 s" in ended[0].text
    assert raced.trace == []

"""Races of real processes, written down step by step, are runs of the lock protocol's model."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from support import event_recorder
from support.event_recorder import Happened, Recorder
from support.notes_application import GOOD, HALF_WAY
from support.raced_application import ROUNDS, Raced, outcomes
from support.spin import LIMIT_S, MISSING, accepts
from support.starters import Ended, Processes

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} not installed"),
    pytest.mark.timeout(LIMIT_S + 60),
]

LOSES_NOTES = """
with op.get_context().autocommit_block():
    op.execute("DELETE FROM notes WHERE text <> 'bread'")
"""


@dataclass
class Race:
    """Three processes that start at the same moment, each of which writes down what it does."""

    raced: Raced
    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "events"

    @contextmanager
    def begun(self, *recovery: Any, **options: Any) -> Iterator[Processes]:
        start = self.raced.start_of(*recovery, **options)
        start = replace(start, prepare=event_recorder.installed(self.file))
        with self.raced.begun(*[start] * 3) as processes:
            yield processes

    def run(self, *recovery: Any, **options: Any) -> list[Ended]:
        with self.begun(*recovery, **options) as processes:
            return processes.ended()

    def does(self, event: str, process: int, act: Callable[[int], None], until: str) -> None:
        """Do something to a process, and wait until the kernel says that it is so."""
        with Recorder(self.file).during(event, process):
            act(process)
            while _state_of(process) not in until:
                time.sleep(0.001)

    @property
    def events(self) -> list[Happened]:
        return event_recorder.happened(self.file)

    def first(self, event: str) -> Happened:
        return next(each for each in self.events if each.event == event)

    def last(self, event: str) -> Happened:
        return [each for each in self.events if each.event == event][-1]

    def next_of(self, event: str, count: int, limit_s: float = 30) -> int:
        """The process of the event that is the so-manyth of its kind, once it has happened."""
        deadline = time.monotonic() + limit_s
        while True:
            found = self.file.exists() and [e for e in self.events if e.event == event]
            if found and len(found) >= count:
                return found[count - 1].process
            assert time.monotonic() < deadline, f"no {event} within {limit_s} s"
            time.sleep(0.005)

    @property
    def told(self) -> str:
        return "\n".join(
            f"{e.start:.4f} {e.end or 0:.4f} {e.process} {e.event}" for e in self.events
        )

    def is_accepted(self, events: list[Happened] | None = None) -> bool:
        options = "" if self.raced.is_postgres else "-DSQLITE"
        return accepts(self.folder, events if events is not None else self.events, options)


def _state_of(process: int) -> str:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return "X"
    return stat.rpartition(")")[2].split()[0]


@pytest.fixture
def race(database_url: str, tmp_path: Path) -> Race:
    return Race(Raced(tmp_path / "app", database_url), tmp_path)


@pytest.fixture
def seed() -> int:
    """Printed, so that a failed round can be run again; AUTOMIGRATOR_SEED repeats one."""
    chosen = int(os.environ.get("AUTOMIGRATOR_SEED", random.randrange(10**6)))
    print(f"AUTOMIGRATOR_SEED={chosen}")
    return chosen


@pytest.mark.long
def test_a_race_of_three(race: Race) -> None:
    race.raced.traced(f"{race.raced.slow(0.2)}\n{GOOD}")
    assert outcomes(race.run()) == {"current": 2, "migrated": 1}
    assert race.is_accepted()
    begun, committed = race.first("BEGUN"), race.first("COMMITTED")
    other = race.last("LOCKED")
    twice = added(race.events, other.process, "COMMITTED", after=committed)
    assert not race.is_accepted(twice), "two commit without a takeover between"
    early = added(race.events, other.process, "LOCKED", after=begun)
    early.remove(other)
    assert not race.is_accepted(early), "two have the lock"


@pytest.mark.long
def test_a_leader_that_is_killed_in_the_middle(race: Race) -> None:
    race.raced.traced(f"{LOSES_NOTES}\n{race.raced.slow(0.5)}\n{GOOD}")
    with race.begun("backup-restore") as processes:
        leader = race.raced.await_trace()
        time.sleep(0.2)
        race.does("KILLED", leader, processes.kill, until="ZX")
        ended = processes.ended()
    assert outcomes(ended) == {"current": 1, "killed": 1, "migrated": 1}
    assert race.is_accepted()
    restored = race.first("RESTORE")
    without = [each for each in race.events if each != restored]
    assert not race.is_accepted(without), "the next one goes on from half a revision"
    alive = [each for each in race.events if each.event != "KILLED"]
    assert not race.is_accepted(alive), "the lock is taken from one that lives"


@pytest.mark.long
@pytest.mark.parametrize("strategies", [(), ("backup-restore",)], ids=["alone", "with snapshots"])
@pytest.mark.parametrize("round_", range(ROUNDS))
def test_one_that_is_killed_at_any_moment(
    race: Race, strategies: tuple[str, ...], round_: int, seed: int
) -> None:
    race.raced.traced(f"{LOSES_NOTES}\n{race.raced.slow(0.1)}", GOOD)
    chosen = random.Random(f"{seed} {round_}")
    with race.begun(*strategies) as processes:
        victim = race.next_of("LOCKED", chosen.choice([1, 1, 2]))
        time.sleep(chosen.uniform(0, 0.9))
        race.does("KILLED", victim, processes.kill, until="ZX")
        processes.ended()
    assert race.is_accepted(), race.told


@pytest.mark.long
def test_a_leader_that_is_killed_before_it_can_remove_its_record(race: Race) -> None:
    race.raced.traced(GOOD)
    with race.begun() as processes:
        leader = race.next_of("COMMITTED", 1)
        race.does("KILLED", leader, processes.kill, until="ZX")
        processes.ended()
    assert race.is_accepted(), race.told


@pytest.mark.long
def test_a_leader_that_is_frozen_for_longer_than_its_lease_and_thaws(race: Race) -> None:
    race.raced.traced(f"import time; time.sleep(0.5)\n{GOOD}")
    limits = {"lease_s": 2} if race.raced.is_postgres else {"lock_timeout": 2}
    with race.begun(**limits) as processes:
        leader = race.raced.await_trace()
        time.sleep(0.1)
        race.does("FROZEN", leader, processes.freeze, until="T")
        others = processes.ended(but=[leader])
        race.does("THAWED", leader, processes.thaw, until="RSDZX")
        (thawed,) = (each for each in processes.ended() if each.pid == leader)
    told = [each.event for each in race.events if each.event.startswith("ENDED")]
    if race.raced.is_postgres:
        assert outcomes(others) == {"current": 1, "migrated": 1}
        assert told[-1] == "ENDED + LOST"
        wrong, why = race.first("THAWED"), "it commits after another has taken over"
    else:
        assert thawed.outcome == "migrated"
        assert told[:2] == ["ENDED + WAITED"] * 2
        wrong, why = race.first("FROZEN"), "it commits while it is frozen"
    assert race.is_accepted()
    assert not race.is_accepted(added(race.events, leader, "COMMITTED", after=wrong)), why


@pytest.mark.long
def test_a_failure_that_those_who_wait_inherit(race: Race) -> None:
    race.raced.traced(f"import time; time.sleep(0.7)\n{HALF_WAY}")
    assert outcomes(race.run("backup-restore")) == {"failed": 3}
    assert race.is_accepted()
    follower = race.last("FENCED")
    again = added(race.events, follower.process, "BEGUN", after=follower)
    assert not race.is_accepted(again), "a follower tries the same once more"
    swap = swapped(race.events, race.first("RESTORE"), race.first("FAILED"))
    assert not race.is_accepted(swap), "a failure is recorded before it is answered"


@pytest.mark.parametrize("how", ["swapped", pytest.param("as they were", marks=pytest.mark.long)])
def test_the_order_of_two_neighbours_is_told_apart(how: str, tmp_path: Path) -> None:
    steps = ["STARTED", "LOCKED", "FENCED", "BEGUN", "COMMITTED", "REMOVE"]
    told = [(2, "STARTED"), *((1, step) for step in steps), (2, "LOCKED")]
    told += [(1, "ENDED + MIGRATED"), (2, "FENCED"), (2, "ENDED + CURRENT")]
    trace = [Happened(who, event, n, n + 0.5) for n, (who, event) in enumerate(told)]
    if how == "swapped":
        trace = swapped(trace, trace[6], trace[7])
    assert accepts(tmp_path, trace) == (how != "swapped")


def added(
    trace: Sequence[Happened], process: int, event: str, *, after: Happened
) -> list[Happened]:
    """A trace with one more event, at once after another."""
    assert after.end is not None
    at = after.end + 1e-6
    return [*trace, Happened(process, event, at, at)]


def swapped(trace: Sequence[Happened], one: Happened, other: Happened) -> list[Happened]:
    """A trace in which each of two events has the other's time."""
    there = {
        one: other._replace(process=one.process, event=one.event),
        other: one._replace(process=other.process, event=other.event),
    }
    return [there.get(each, each) for each in trace]

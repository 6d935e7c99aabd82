"""The lock protocol as a model: spin tries every order of steps, and finds each seeded mistake."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.spin import LIMIT_S, MISSING, MODEL, verified

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} not installed"),
    pytest.mark.timeout(LIMIT_S + 60),
]


ONE_DEATH = "-DDEATHS=1 -DFREEZES=0"
ONE_FREEZE = "-DDEATHS=0 -DFREEZES=1"


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(ONE_DEATH, id="one dies", marks=pytest.mark.long),
        *(
            pytest.param(options, id=says, marks=pytest.mark.long)
            for says, options in {
                "two die": "-DDEATHS=2 -DFREEZES=0",
                "one is silent for longer than its lease": ONE_FREEZE,
                "two of two are silent and one dies": "-DNPROC=2 -DDEATHS=1 -DFREEZES=2",
                "the lock's session is cut amid an act": "-DDEATHS=0 -DFREEZES=0 -DCUTS=1",
                "one dies and dumps": f"{ONE_DEATH} -DDUMP",
                "one is silent and dumps": f"{ONE_FREEZE} -DDUMP",
                "two databases to lock in and one dies": f"{ONE_DEATH} -DPLACES=2",
                "one start may fail and one dies": f"{ONE_DEATH} -DLIMIT=1",
                "sqlite and one dies and one is frozen": "-DSQLITE -DDEATHS=1 -DFREEZES=1",
            }.items()
        ),
    ],
)
def test_no_order_of_steps_breaks_the_protocol(options: str, tmp_path: Path) -> None:
    violated, states = verified(tmp_path, options)
    print(f"{options}: {states:,} states")
    assert violated == ""
    assert states > 1000


@pytest.mark.long
def test_no_run_goes_on_for_ever(tmp_path: Path) -> None:
    violated, _ = verified(tmp_path, ONE_FREEZE, cycles=True)
    assert violated == ""


@pytest.mark.long
@pytest.mark.parametrize(
    ("mistake", "options", "found"),
    [
        ("NO_FENCE", ONE_FREEZE, "leader=="),
        ("STEAL", ONE_FREEZE, "leader=="),
        ("NOT_LOOKED_AGAIN", ONE_DEATH, "db!=2"),
        ("PREDECESSORS_STAY", ONE_DEATH, "leader=="),
        ("CONFIRM_FIRST", ONE_FREEZE, "leader=="),
        ("UNNAMED_RECORD", ONE_FREEZE, "leader=="),
        ("ACTS_APART", ONE_DEATH, "leader=="),
        ("NO_RECORD", "-DDEATHS=0 -DFREEZES=0", "!(restored"),
        ("COUNTED_LATE", f"{ONE_DEATH} -DLIMIT=1", "tries["),
        ("ONE_PLACE_SEARCHED", f"{ONE_DEATH} -DPLACES=2", "leader=="),
    ],
)
def test_a_seeded_mistake_is_found(mistake: str, options: str, found: str, tmp_path: Path) -> None:
    text = MODEL.read_text("utf-8")
    assert re.search(rf"(def|defined\() ?{mistake}\b", text), "the model knows no such mistake"
    violated, _ = verified(tmp_path, f"{options} -D{mistake}")
    assert violated.startswith(found)

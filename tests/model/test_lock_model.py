"""The lock protocol as a model: spin tries every order of steps, and finds each seeded mistake."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

MODEL = Path(__file__).parents[2] / "docs" / "locking" / "lock.pml"
MEMORY_MB = 3500
LIMIT_S = 600
_MISSING = [tool for tool in ("spin", "gcc") if shutil.which(tool) is None]

pytestmark = [
    pytest.mark.skipif(bool(_MISSING), reason=f"{' and '.join(_MISSING)} not installed"),
    pytest.mark.timeout(LIMIT_S + 60),
]


def verified(folder: Path, options: str, *, cycles: bool = False) -> tuple[str, int]:
    """What is violated, an empty text for nothing, and how many states were looked at.

    With `cycles`, a run that never ends is looked for in place of violations.
    """
    made = subprocess.run(
        ["spin", "-a", *options.split(), str(MODEL)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    # a process that may be stopped at any moment leaves nothing to reduce
    defined = ["-DNOREDUCE", "-DNP" if cycles else "-DSAFETY", f"-DMEMLIM={MEMORY_MB}"]
    subprocess.run(["gcc", "-O2", "-w", *defined, "-o", "pan", "pan.c"], cwd=folder, check=True)
    pan = subprocess.run(
        ["./pan", "-E", "-m2000000", "-w24", *(["-l"] if cycles else [])],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    violated = re.search(
        r"assertion violated \(?\s*(.*?)\)? \(at depth|pan:\d+: (non-progress cycle)", pan.stdout
    )
    # to give up for want of memory or depth would prove nothing
    whole = "errors: 0" in pan.stdout and "max search depth too small" not in pan.stdout
    assert violated or (whole and pan.returncode == 0), pan.stdout
    (states,) = re.findall(r"(\d+(?:\.\d+)?(?:e\+\d+)?) states, stored", pan.stdout)
    return (violated[1] or violated[2] if violated else ""), int(float(states))


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


@pytest.mark.parametrize(
    ("mistake", "options", "found"),
    [
        ("NO_FENCE", ONE_FREEZE, "leader=="),
        pytest.param("STEAL", ONE_FREEZE, "leader==", marks=pytest.mark.long),
        pytest.param("NOT_LOOKED_AGAIN", ONE_DEATH, "db!=2", marks=pytest.mark.long),
        pytest.param("PREDECESSORS_STAY", ONE_DEATH, "leader==", marks=pytest.mark.long),
        pytest.param("CONFIRM_FIRST", ONE_FREEZE, "leader==", marks=pytest.mark.long),
        pytest.param("UNNAMED_RECORD", ONE_FREEZE, "leader==", marks=pytest.mark.long),
        pytest.param("ACTS_APART", ONE_DEATH, "leader==", marks=pytest.mark.long),
        pytest.param("NO_RECORD", "-DDEATHS=0 -DFREEZES=0", "!(restored", marks=pytest.mark.long),
        pytest.param("COUNTED_LATE", f"{ONE_DEATH} -DLIMIT=1", "tries[", marks=pytest.mark.long),
        pytest.param(
            "ONE_PLACE_SEARCHED", f"{ONE_DEATH} -DPLACES=2", "leader==", marks=pytest.mark.long
        ),
    ],
)
def test_a_seeded_mistake_is_found(mistake: str, options: str, found: str, tmp_path: Path) -> None:
    text = MODEL.read_text("utf-8")
    assert re.search(rf"(def|defined\() ?{mistake}\b", text), "the model knows no such mistake"
    violated, _ = verified(tmp_path, f"{options} -D{mistake}")
    assert violated.startswith(found)

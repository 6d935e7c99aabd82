"""Searches the model of the lock protocol with spin, and asks it whether a recorded race fits."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from support.event_recorder import OF_THE_WORLD, Happened

MODEL = Path(__file__).parents[2] / "docs" / "locking" / "lock.pml"
MEMORY_MB = 3500
LIMIT_S = 600
MISSING = " and ".join(tool for tool in ("spin", "gcc") if shutil.which(tool) is None)


def verified(
    folder: Path, options: str, *, cycles: bool = False, small: bool = False
) -> tuple[str, int]:
    """What is violated, an empty text for nothing, and how many states were looked at.

    With `cycles`, a run that never ends is looked for in place of violations. A `small` search
    would take less time than to optimise it.
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
    level, room = ("-O0", ["-m100000", "-w18"]) if small else ("-O2", ["-m2000000", "-w24"])
    subprocess.run(["gcc", level, "-w", *defined, "-o", "pan", "pan.c"], cwd=folder, check=True)
    pan = subprocess.run(
        ["./pan", "-E", *room, *(["-l"] if cycles else [])],
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


def accepts(folder: Path, trace: Sequence[Happened], options: str = "") -> bool:
    """Whether the model has a run with these events, in an order that the clock allows.

    Each process is a client of the model. An event whose process was killed meanwhile is one that
    may be left out.
    """
    file = folder / "trace.h"
    file.write_text(header(trace), "utf-8")
    clients = len({each.process for each in trace})
    own = [
        f"-DNPROC={clients}",
        f"-DDEATHS={clients}",
        f"-DTRACE='\"{file}\"'",
    ]  # spin asks a shell
    violated, _ = verified(folder, " ".join([*own, options]), small=True)
    assert violated in ("", "0"), f"a promise of the model is broken on the way: {violated}"
    return violated == "0"


def header(trace: Sequence[Happened]) -> str:
    """`ALLOWED` and `ACCEPTED` for the model.

    The events of a client take place in the order in which they ended, and after those of every
    other whose end precedes their start. What the world does to it has an order of its own.
    """
    processes = list(dict.fromkeys(each.process for each in trace))
    tracks: list[list[Happened]] = [[] for _ in range(2 * len(processes))]
    for each in trace:
        apart = len(processes) * (each.event in OF_THE_WORLD)
        tracks[processes.index(each.process) + apart].append(each)
    for track in tracks:
        # what has no end comes last, and of two the one within the other first
        track.sort(key=lambda each: (each.end is None, each.end or -each.start))
    allowed, accepted = [], []
    for number, track in enumerate(tracks):
        for position, each in enumerate(track):
            before = [
                (other, sum(e.end is not None and e.end < each.start for e in tracks[other]))
                for other in range(len(tracks))
                if other != number
            ]
            terms = [f"(n) == {number}", f"at[{number}] == {position}", f"(event) == {each.event}"]
            terms += [f"at[{other}] >= {count}" for other, count in before if count]
            allowed.append(f"({' && '.join(terms)})")
        certain = sum(each.end is not None for each in track)
        accepted.append(f"at[{number}] >= {certain}")
    some, all_ = " || ".join(allowed), " && ".join(accepted)
    return f"#define ALLOWED(n, event) ({some})\n#define ACCEPTED ({all_})\n"

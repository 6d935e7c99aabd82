"""Trials: lay a database, kill a start, perhaps another, let one end, and judge what is there."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import sqlite3
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from faults import places
from faults.boundaries import Boundaries, Steps
from faults.cases import Case
from faults.contents import Contents
from faults.places import Place
from support import alembic_projects, starters

MOMENTS = int(os.environ.get("AUTOMIGRATOR_FAULTS", 0))
"""How many random moments for each strategy and database; set by `nox -s faults`, which kills at
every step, too. Without it one of each is taken, and not every case."""

_context = multiprocessing.get_context("forkserver")


class Counted(Protocol):
    """Takes what each trial of a campaign returned, under the name of how they were killed."""

    def __call__(self, campaign: Campaign, kind: str, trials: Sequence[Sequence[str]]) -> None: ...


class Campaign:
    """Trials of one case on one database; each returns what was wrong, nothing if all was well."""

    def __init__(self, root: Path, case: Case, place: Place) -> None:
        self.case, self.place = case, place
        self._logs, self._trace = root / "logs", root / "trace"
        self._logs.mkdir()
        kind = "async" if case.one_transaction else "per_migration"
        self._project = alembic_projects.project(
            root, kind, place.url, revisions=lambda folder: None
        )
        first = "\n".join(f"op.execute({statement!r})" for statement in places.TABLES)
        for number, upgrade in enumerate([first, *case.upgrades], 1):
            before = f"r{number - 1}" if number > 1 else None
            alembic_projects.revision(self._project.versions, f"r{number}", before, upgrade=upgrade)
        place.lay()
        self._old = self._wanted = place.contents()
        if case.end in ("fresh", "emptied"):
            place.empty()
        if case.end != "old":
            url = alembic_projects.with_sync_driver(place.url)
            (ended,) = self._ended(starters.Start(url, self._project.config, plain=True))
            assert not ended.error, ended.text
            self._wanted = place.contents()
        self.seconds, self.steps = self._undisturbed()

    def _undisturbed(self) -> tuple[float, Sequence[str]]:
        seconds = []
        for trace in (None, self._trace):
            self.place.lay()
            (ended,) = self._ended(self._start(trace=trace))
            assert not (wrong := self._judged(ended, 0)), wrong
            seconds.append(ended.seconds)
        return max(seconds), self._trace.read_text().splitlines()

    def killed_at_step(
        self, number: int, chance: random.Random, *, within_s: float = 0
    ) -> list[str]:
        """Kill a start when it reaches a step, or at a random moment `within_s` after that."""
        after_s = chance.uniform(0, within_s)
        start = self._start(at=number, after_s=after_s)
        name = f"step {number} ({self.steps[number - 1]}) and {after_s * 1000:.1f} ms"
        return self._trial(name, chance, lambda: self._ended(start))

    def killed_at_a_moment(self, chance: random.Random) -> list[str]:
        """Kill a start at a random moment of the time that it takes."""
        after_s = chance.uniform(0, self.seconds)
        return self._trial(f"{after_s:.3f} s", chance, lambda: self._killed_after(after_s))

    def stopped(self, stop: Callable[[], Callable[[], object]], chance: random.Random) -> list[str]:
        """Stop the server at a random moment of a start, which ends as it can once it is back."""
        after_s = chance.uniform(0, self.seconds)

        def first() -> None:
            with starters.started([self._start()], self._logs) as processes:
                time.sleep(after_s)
                stop()()
                processes.ended()

        return self._trial(f"{after_s:.3f} s by the server's stop", chance, first)

    def _trial(self, name: str, chance: random.Random, first: Callable[[], object]) -> list[str]:
        """Lay, kill the first start, half of the second ones too, let one end, and judge."""
        self.place.lay()
        written = _written(self.place, chance.randint(1, 9)) if chance.random() < 0.5 else 0
        first()
        if chance.random() < 0.5:
            after_s = chance.uniform(0, self.seconds)
            name += f", again after {after_s:.3f} s"
            self._killed_after(after_s)
        (ended,) = self._ended(self._start())
        wrong = self._judged(ended, written)
        return [f"{self.case.name}, killed at {name}: {'; '.join(wrong)}"] if wrong else []

    def _start(
        self, *, at: int | None = None, after_s: float = 0, trace: Path | None = None
    ) -> starters.Start:
        prepare = None
        if at is not None or trace is not None:
            boundaries = partial(Boundaries, self.place.folder, at=at, after_s=after_s, trace=trace)
            prepare = partial(_watch, boundaries)
        return starters.Start(
            self.place.url,
            self._project.config,
            recovery=self.case.strategies(self.place.copies),
            plugins=[Steps()],
            prepare=prepare,
        )

    def _ended(self, start: starters.Start) -> list[starters.Ended]:
        with starters.started([start], self._logs) as processes:
            return processes.ended()

    def _killed_after(self, seconds: float) -> None:
        with starters.started([self._start()], self._logs) as processes:
            time.sleep(seconds)
            processes.kill(processes.pids[0])
            processes.ended()

    def _judged(self, ended: starters.Ended, written: int) -> list[str]:
        """What is wrong with the database and with what the last start said of it."""
        if ended.report is None:
            return [f"the last start gave no report but {ended.error}: {ended.text}"]
        wrong = []
        if ended.outcome not in self.case.outcomes:
            wrong.append(f"the last start says: {ended.outcome} {ended.text} {ended.report}")
        wrong.append(self.place.held())
        copies = self.place.beside()
        try:
            found = self.place.contents()
            wrong.append(found.against(self._wanted))
            if set(ended.report["after"]) != found.heads:
                wrong.append(f"it says {ended.report['after']} and is at {set(found.heads)}")
            kept = [found] if self.case.end in ("old", "migrated") else []
            for kind, name in copies:
                if kind == "stray":
                    wrong.append(f"{name} was left")
                elif kind == "snapshot":
                    copy = self.place.contents(name)
                    wrong += [copy.against(self._old), _lost(written, copy)]
                else:
                    aside = self.place.contents(name)
                    if self.case.end == "fresh" and aside.holds_rows_of(self._old):
                        kept.append(aside)
            if self.case.end != "emptied" and not any(not _lost(written, each) for each in kept):
                wrong.append(_lost(written, kept[0]) if kept else "the old rows are nowhere")
        except (sqlite3.DatabaseError, subprocess.CalledProcessError) as error:
            wrong.append(str(error))
        return [each for each in wrong if each]


def _watch(make: partial[Boundaries]) -> None:
    make().watch()


def _lost(written: int, found: Contents) -> str:
    """Whether a line that was acknowledged is not there, or one is that nobody wrote."""
    lines = sorted(map(int, found.diary))
    # one more may have been committed when its writer was killed
    if lines == list(range(len(lines))) and len(lines) - 1 - written in (0, int(written > 0)):
        return ""
    return f"of {written} lines that were written there are {len(lines) - 1}"


def _written(place: Place, lines: int) -> int:
    """How many lines another process wrote, and had committed, until it was killed."""
    ours, theirs = _context.Pipe()
    process = _context.Process(target=_write, args=(theirs, place), daemon=True)
    process.start()
    theirs.close()
    try:
        for _ in range(lines):
            ours.recv()
        process.kill()
        with suppress(EOFError):
            while True:
                lines = ours.recv()
        return lines
    finally:
        process.kill()
        process.join()
        ours.close()


def _write(pipe: Connection, place: Place) -> None:
    append = place.appender()
    for number in itertools.count(1):
        append(number)
        pipe.send(number)

"""kill -9 in the middle of a restore by hand: the next start finds the old database or the restored
one, or ends or undoes what was begun; what was written since the snapshot is never lost."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from compatibility.applications import DIES, HALF_WAY, LATE, Deployed
from compatibility.release import Release
from sqlalchemy import make_url
from support import starters
from support.notes_application import GOOD, ROWS

from automigrator import Migrator, Snapshot, Target
from automigrator.testing.processes import Process

pytestmark = [
    pytest.mark.plugins,
    pytest.mark.skipif(shutil.which("pg_dump") is None, reason="no PostgreSQL client programs"),
    pytest.mark.long("every_step", "template", "dump", "dead_leader", "damaged"),
]

OLD = [*ROWS, LATE]
HALF = 'with op.get_context().autocommit_block():\n    op.execute("DELETE FROM notes")\n'


def restore(
    tell: Callable[[Any], None], start: starters.Start, place: str, folder: str, at: int, trace: str
) -> None:
    """In a process of its own: killed at its step number `at`, 0 for never."""
    from faults.boundaries import Boundaries, Steps

    Boundaries(folder, at=at or None, trace=Path(trace)).watch()
    migrator = Migrator(Target(start.url, start.config), recovery=start.recovery, plugins=[Steps()])
    asyncio.run(migrator.restore_snapshot(place))
    tell("restored")


class Trials:
    """An application whose database is laid anew, and a restore that is killed at its steps."""

    def __init__(self, app: Deployed, snapshot: Snapshot) -> None:
        self.app, self.snapshot = app, snapshot
        self._trace = app.root.parent / f"{app.root.name}.trace"

    def killed(self, at: int) -> bool:
        """Restore, killed at a step; whether it was."""
        app = self.app
        start = starters.Start(app.url, app.config, recovery=[app.backup()])
        process = Process(restore, start, self.snapshot.place, str(app.root), at, str(self._trace))
        return process.ended()

    def steps(self) -> list[str]:
        assert not self.killed(0)
        return self._trace.read_text().splitlines()

    def next_start(self) -> Any:
        target = self.app.target(revision="r1")
        migrator = Migrator(target, mode="migrate", recovery=[self.app.backup()])
        (report,) = asyncio.run(migrator.run()).targets
        return report

    def kept(self) -> list[Any]:
        """What each copy holds."""
        listed = asyncio.run(Migrator(self.app.target()).snapshots(folder=self.app.dumps))
        places = [each.place for each in listed if each.whole]
        described = {*places}  # one whose process was killed before it had said what it holds
        files = map(str, self.app.dumps.glob("*_replaced_*.dump"))
        places += [each for each in files if each not in described]
        return [self.app.notes_in(place) for place in places]

    def judge(self, step: str, old: Any = OLD, late: Any = OLD) -> str:
        """What is wrong after the next start; `late` must be there or in what is kept."""
        report = self.next_start()
        said = f"killed at {step}: {report.outcome}, {report.notes}"
        found, heads = self.app.notes(), self.app.heads
        if (found, heads) not in ((ROWS, {"r1"}), (old, {"r1"}), (old, {"r2"})):
            return f"{said}: {found} at {heads}"
        if late != found and late not in self.kept():
            return f"{said}: what was written since the snapshot is lost"
        status = asyncio.run(Migrator(self.app.target(revision="r1")).check()).targets[0]
        strays = [p.name for p in self.app.root.iterdir() if ".partial" in p.name]
        strays += [p.name for p in self.app.root.iterdir() if "automigrator-new" in p.name]
        return f"{said}: unfinished {status}, {strays}" if status.unfinished or strays else ""


def laid(app: Deployed) -> Trials:
    """A snapshot at r1, a database at r2 with a note written since."""
    options: dict[str, Any] = {} if app.copy == "sqlite" else {"how": app.copy}
    if app.copy == "dump":
        options["folder"] = app.dumps
    snapshot = asyncio.run(Migrator(app.target()).take_snapshot(**options))
    forth(app)
    return Trials(app, snapshot)


def forth(app: Deployed) -> None:
    if app.count == 1:
        app.deploy(GOOD)
    if app.heads == {"r1"}:
        assert asyncio.run(Migrator(app.target(), mode="migrate").run()).outcome == "migrated"
    if LATE not in app.notes():
        app.write_late()


class Files:
    """The files of a SQLite database and its copies, to be laid anew."""

    def __init__(self, app: Deployed) -> None:
        self._live = Path(str(make_url(app.url).database))
        self._kept = {p: p.read_bytes() for p in self._all()}

    def _all(self) -> list[Path]:
        return sorted(self._live.parent.glob(f"{self._live.name}*"))

    def lay(self) -> None:
        for path in self._all():
            path.unlink()
        for path, data in self._kept.items():
            path.write_bytes(data)


def wrong_at(
    trials: Trials, files: Files, chosen: Callable[[list[str]], Iterable[int]], **judged: Any
) -> list[str]:
    steps = trials.steps()
    wrong, ended = [], 0
    for number in chosen(steps):
        files.lay()
        ended += not trials.killed(number)  # what is laid anew may need a step less
        assert ended <= 3
        wrong.append(trials.judge(f"step {number} ({steps[number - 1]})", **judged))
    return list(filter(None, wrong))


def every(steps: list[str]) -> Sequence[int]:
    return range(1, len(steps) + 1)


def some(steps: list[str]) -> Iterable[int]:
    """While the journal is written, and around the overwriting."""
    words = ("journal.json.tmp", "BEGIN EXCLUSIVE")
    found = [[n for n, step in enumerate(steps, 1) if word in step] for word in words]
    return sorted({each for numbers in found for each in (numbers[0], numbers[-1])})


on_sqlite = pytest.mark.parametrize("app", ["sqlite"], indirect=True)
on_postgres = pytest.mark.parametrize("app", ["template", "dump"], indirect=True)


@on_sqlite
@pytest.mark.parametrize("chosen", [some, every], ids=["some_steps", "every_step"])
def test_a_file_is_the_old_one_or_the_restored_one(
    app: Deployed, chosen: Callable[[list[str]], Iterable[int]]
) -> None:
    trials = laid(app)
    assert not wrong_at(trials, Files(app), chosen)


@on_sqlite
def test_a_dead_leaders_journal_is_followed_or_this_one(new: Release, app: Deployed) -> None:
    snapshot = asyncio.run(Migrator(app.target()).take_snapshot())
    app.write_late()
    app.deploy(HALF_WAY + DIES)
    new.killed(app.start_with(app.backup()))
    app.mended()
    assert not wrong_at(Trials(app, snapshot), Files(app), lambda steps: every(steps)[::3])


@on_sqlite
def test_a_damaged_file_is_replaced(app: Deployed) -> None:
    snapshot = asyncio.run(Migrator(app.target()).take_snapshot())
    Path(str(make_url(app.url).database)).write_bytes(b"no database at all" * 1000)
    trials, files = Trials(app, snapshot), Files(app)
    steps = trials.steps()
    begun = next(n for n, step in enumerate(steps, 1) if "automigrator-new" in step)
    for number in range(begun, len(steps) + 1):
        files.lay()
        assert trials.killed(number)
        assert trials.next_start().outcome == "current", steps[number - 1]
        assert app.notes() == ROWS, steps[number - 1]


@on_postgres
@pytest.mark.parametrize("part", range(4))
def test_a_database_of_a_server_is_the_old_one_or_the_restored_one(
    app: Deployed, part: int
) -> None:
    trials = laid(app)
    steps = trials.steps()
    acts = [n for n, step in enumerate(steps, 1) if _changes(step)]
    assert len(acts) > 5
    wrong = []
    for number in acts[part :: max(len(acts) // 3, 4)]:
        forth(app)
        trials.killed(number)  # a pool may make a step more or less
        wrong.append(trials.judge(f"step {number} ({steps[number - 1]})"))
    wrong = list(filter(None, wrong))
    assert not wrong


def _changes(step: str) -> bool:
    words = ("CREATE DATABASE", "ALTER DATABASE", "COMMENT", "DROP", "commit", "COMMIT", "child")
    return any(word in step for word in (*words, "rename", "fsync"))

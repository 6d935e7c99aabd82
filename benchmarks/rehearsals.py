"""Measured rehearsals against what really happens: forty revisions, tables of three sizes, users.

    python benchmarks/rehearsals.py [--rows 1000 50000 400000] [--only WORD] [--write-docs]

Each revision is rehearsed on a copy and then applied to the database that it was copied from, while
others read and write there. The server itself logs how long each of them waited for a lock, and the
session of the migration is asked for its locks. `squawk`, where it is installed, reads the SQL.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import page
from databases import postgres_server
from rehearsal_revisions import REVISIONS, SETUP
from support import alembic_projects

from automigrator import Migrator, Report, Target
from automigrator.backends.contract.backend import Backend
from automigrator.backends.postgresql.backend import PostgreSQL
from automigrator.backends.postgresql.meters.meter import MODES
from automigrator.errors import EnvError
from automigrator.rehearsed import Rehearsed

FOLDER = Path(__file__).parent
DANGEROUS_S = 0.2
"""Seconds of waiting from which on a revision is dangerous: twice what a finding warns of."""

FLOOR_S = 0.1
"""Seconds by which two times may differ all the same: as long as a finding calls nobody's wait."""

SETTINGS = {"log_lock_waits": "on", "deadlock_timeout": "1ms", "shared_buffers": "256MB"}

_OTHER_RULES = ("prefer-", "require-", "ban-char")
"""Rules of squawk that are about taste or time-outs, and not about what a statement locks."""

NAMES = """
    select c.oid::int8, t.relname::text from pg_class c
    left join pg_index i on i.indexrelid = c.oid
    join pg_class t on t.oid = coalesce(i.indrelid, c.oid)
    where c.oid >= 16384 and c.relkind in ('r', 'p', 'i') and t.relname <> 'alembic_version'
      and t.relname !~ '^pg_'
"""
PROBE = """
if not op.get_context().as_sql and op.get_bind().engine.url.database.endswith("_live"):
    import json
    found = op.get_bind().exec_driver_sql(
        "select relation::int8, mode from pg_locks where pid = pg_backend_pid() "
        "and locktype = 'relation' and relation >= 16384").fetchall()
    with open({file!r}, "w") as file:
        json.dump([list(each) for each in found], file)
"""


class Trial:
    """One revision, on a database of one size."""

    def __init__(self, name: str, rows: int) -> None:
        self.name, self.rows = name, rows
        self.predicted: dict[str, str] = {}
        self.real: dict[str, str] = {}
        self.predicted_s = self.real_s = 0.0
        self.warned = False
        self.rules: list[str] = []
        self.share = 0.0
        """Of the rehearsal's time, that which the measuring took."""

    @classmethod
    def kept(cls, line: str) -> Trial:
        """The trial that a line of the results is."""
        found = json.loads(line)
        trial = cls(found["name"], found["rows"])
        vars(trial).update(found)
        return trial

    @property
    def modes_right(self) -> bool:
        return self.predicted == self.real

    @property
    def unseen(self) -> bool:
        """Whether the statement was over before anybody could see its locks."""
        return not self.real and "autocommit_block" in REVISIONS[self.name]

    @property
    def time_right(self) -> bool:
        small, large = sorted((self.predicted_s, self.real_s))
        return large <= 2 * small or large - small <= FLOOR_S

    @property
    def ratio(self) -> float:
        """How many times the longer of the two times is the other one."""
        small, large = sorted((self.predicted_s, self.real_s))
        return large / small if small else float("inf")

    @property
    def dangerous(self) -> bool:
        return self.real_s >= DANGEROUS_S


def strongest(found: Iterator[tuple[str | None, str]]) -> dict[str, str]:
    modes: dict[str, str] = {}
    for name, mode in found:
        if name is not None and mode in MODES:
            modes[name] = max(modes.get(name, MODES[0]), mode, key=MODES.index)
    return modes


class Bench:
    def __init__(self, server: postgres_server.Server, folder: Path, log: Path) -> None:
        self.server, self.folder, self.log = server, folder, log

    def prepare(self, rows: int) -> None:
        """Make the database that all trials of a size begin with."""
        name = f"am_bench_{rows}"
        self.server.create(name)
        for each in SETUP.format(rows=rows).split(";\n"):
            if each.strip():
                self.server.execute(each, database=name)
        self.server.execute(
            "create table alembic_version (version_num varchar(32) primary key)", database=name
        )
        self.server.execute("insert into alembic_version values ('r1')", database=name)

    def copied(self, rows: int, name: str) -> float:
        began = time.perf_counter()
        self.server.drop(name)
        self.server.execute(f"create database {name} template am_bench_{rows}")
        return time.perf_counter() - began

    @contextmanager
    def used(self, url: str, rows: int) -> Iterator[dict[str, Any]]:
        """Context manager: others use a database; at the end `seen` says what others locked."""
        dsn = url.replace("+asyncpg", "")
        process = subprocess.Popen(
            [sys.executable, str(FOLDER / "rehearsals_side.py"), dsn, str(rows)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None and process.stdin is not None
        found: dict[str, Any] = {"pids": set(json.loads(process.stdout.readline()))}
        time.sleep(0.2)
        try:
            yield found
        finally:
            time.sleep(0.1)
            process.stdin.close()
            found["seen"] = json.loads(process.stdout.readline())
            process.wait(60)

    def run(self, name: str, rows: int) -> Trial:
        trial = Trial(name, rows)
        root = self.folder / "project"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        copy, live = "am_bench_copy", "am_bench_live"
        copying_s = self.copied(rows, copy)
        self.copied(rows, live)
        url = self.server.url(live)
        project = alembic_projects.project(root, "async", url, revisions=lambda folder: None)
        alembic_projects.revision(project.versions, "r1", None)
        locks = root / "locks.json"
        body = f"{REVISIONS[name]}\n{PROBE.format(file=str(locks))}"
        alembic_projects.revision(project.versions, "r2", "r1", upgrade=body)
        migrator = Migrator(Target(url, project.config), mode="migrate", announce=False)
        try:
            trial.rules = squawk(asyncio.run(migrator.plan(sql=True)), root)
        except EnvError:
            trial.rules = ["no SQL to read"]
        with self.used(url, rows):
            began = time.perf_counter()
            found = asyncio.run(migrator.rehearse_on(self.server.url(copy)))
            took = time.perf_counter() - began
        self._predict(trial, found, copying_s + took)
        seen, log, pids = self._applied(migrator, rows, locks)
        trial.real, trial.real_s = strongest(iter(seen)), waited_s(log, pids)
        for _ in range(3):
            if trial.modes_right or "autocommit_block" not in REVISIONS[name]:
                break
            # too short for the watcher: an open transaction makes such statements wait, and be seen
            self.copied(rows, live)
            more, *_ = self._applied(migrator, rows, locks, held=True)
            trial.real = strongest(iter([*trial.real.items(), *more]))
        return trial

    def _applied(
        self, migrator: Migrator, rows: int, locks: Path, *, held: bool = False
    ) -> tuple[list[tuple[str | None, str]], str, set[int]]:
        """Migrate the database that is used; return locks, what the server logged, and users."""
        live = "am_bench_live"
        url = self.server.url(live)
        names = dict(map(tuple, self.server.execute(NAMES, database=live)))
        before = self.log.stat().st_size
        locks.unlink(missing_ok=True)
        with self.used(url, rows) as others:
            report = asyncio.run(migrated(migrator, url if held else None))
        assert report.outcome == "migrated", report
        seen = [*others["seen"], *(json.loads(locks.read_text()) if locks.exists() else ())]
        if held:  # the reader's own
            seen = [each for each in seen if each[1] != "AccessShareLock"]
        with self.log.open(errors="replace") as file:
            file.seek(before)
            return [(names.get(oid), mode) for oid, mode in seen], file.read(), others["pids"]

    def _predict(self, trial: Trial, found: Rehearsed, took_s: float) -> None:
        assert found.failure is None and found.measurement is not None, found
        measured = found.measurement
        (revision,) = measured.revisions
        held = (lock for each in revision.statements for lock in each.locks)
        trial.predicted = strongest((lock.relation, lock.mode) for lock in held)
        trial.predicted_s = revision.block_s
        trial.warned = measured.level in ("warning", "error")
        trial.share = measured.measuring_s / took_s

    def cost(self, rows: int, rounds: int) -> list[str]:
        """What measuring adds to rehearsals that a start makes, in turn with and without it."""
        lines = [
            "",
            "| a rehearsal of | not measured | measured | **added** |",
            "|---|---|---|---|",
        ]
        for name, bodies in COSTS.items():
            found: dict[bool, list[float]] = {True: [], False: []}
            for each in range(2 * rounds + 2):
                seconds = self._rehearsed_s(rows, bodies, measured=each % 2 == 0)
                if each > 1:  # the first two warm up
                    found[each % 2 == 0].append(seconds)
            without, with_it = statistics.median(found[False]), statistics.median(found[True])
            added = with_it / without - 1
            lines.append(f"| {name} | {without:.2f} s | {with_it:.2f} s | {added:+.1%} |")
        return lines

    def _rehearsed_s(self, rows: int, bodies: list[str], *, measured: bool) -> float:
        root, live = self.folder / "project", "am_bench_live"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        self.copied(rows, live)
        url = self.server.url(live)
        project = alembic_projects.project(root, "async", url, revisions=lambda folder: None)
        alembic_projects.revision(project.versions, "r1", None)
        for number, body in enumerate(bodies, 2):
            folder, before = project.versions, f"r{number - 1}"
            alembic_projects.revision(folder, f"r{number}", before, upgrade=body)
        target = Target(url, project.config)
        migrator = Migrator(target, mode="migrate", announce=False, rehearse=True)
        with nullcontext() if measured else unmeasured():
            (report,) = asyncio.run(migrator.run()).targets
        assert report.rehearsed_s is not None and (report.rehearsal is not None) is measured
        return report.rehearsed_s


@contextmanager
def unmeasured() -> Iterator[None]:
    """Context manager: rehearsals measure nothing."""
    own = {name: vars(PostgreSQL)[name] for name in ("metering", "usage")}
    for name in own:
        setattr(PostgreSQL, name, vars(Backend)[name])
    try:
        yield
    finally:
        for name, method in own.items():
            setattr(PostgreSQL, name, method)


ROW_BY_ROW = """
change = sa.text("update items set note = :note where id = :id")
for n in range(1, 1001):
    op.get_bind().execute(change, {"note": "changed", "id": n})
"""
COSTS = {
    "one index": [REVISIONS["create an index"]],
    "a rewritten table": [REVISIONS["integer to bigint"]],
    "a step of 1,000 rows, one by one": [ROW_BY_ROW],
    "100 revisions of one table each": [
        f'op.create_table("t{n}", sa.Column("id", sa.Integer, primary_key=True))'
        for n in range(100)
    ],
}


async def migrated(migrator: Migrator, held: str | None) -> Report:
    """Run a migration; beside a transaction that reads for a second, where `held` has the URL."""
    if held is None:
        return await migrator.run()
    reader = await asyncpg.connect(held.replace("+asyncpg", ""))
    async with reader.transaction(isolation="repeatable_read"):
        for table in ("items", "owners", "parts", "old_things"):
            await reader.execute(f"select from {table} limit 1")
        run = asyncio.ensure_future(migrator.run())
        await asyncio.sleep(3)
    report = await run
    await reader.close()
    return report


WAITED = re.compile(r"process (\d+) acquired .* after ([\d.]+) ms")


def waited_s(log: str, pids: set[int]) -> float:
    """The longest time that one of these sessions waited for a lock, as the server logged it."""
    found = (m.groups() for m in WAITED.finditer(log))
    return max((float(ms) / 1000 for pid, ms in found if int(pid) in pids), default=0.0)


def squawk(plans: Any, root: Path) -> list[str]:
    """The rules about locks that squawk finds broken in the SQL of what is pending."""
    program = shutil.which("squawk")
    if program is None:
        return []
    file = root / "r2.sql"
    file.write_text("\n".join(plan.sql or "" for plan in plans))
    command = [program, "--reporter", "Json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = {each["rule_name"] for each in json.loads(done.stdout or "[]")}
    return sorted(each for each in found if not each.startswith(_OTHER_RULES))


def table(trials: list[Trial], sizes: list[int]) -> list[str]:
    """A row for each revision."""
    head = [f"{rows:,} rows" for rows in sizes]
    lines = [
        f"| revision | locks | waited at {' | waited at '.join(head)} | squawk |",
        f"|---|---|{'---|' * len(sizes)}---|",
    ]
    for name in dict.fromkeys(each.name for each in trials):
        own = [each for each in trials if each.name == name]
        modes = own[-1].predicted.items()
        shown = ", ".join(f"{table} {mode.removesuffix('Lock')}" for table, mode in sorted(modes))
        right = "" if all(each.modes_right or each.unseen for each in own) else " **wrong**"
        times = []
        for each in own:
            bold = "" if each.time_right else "**"
            times.append(f"{bold}{each.predicted_s * 1000:.0f} / {each.real_s * 1000:.0f}{bold}")
        rules = ", ".join(own[-1].rules) or "-"
        lines.append(f"| {name} | {shown or 'none'}{right} | {' | '.join(times)} | {rules} |")
    return lines


def verdict(trials: list[Trial]) -> list[str]:
    names = {each.name for each in trials}
    wrong = {each.name for each in trials if not (each.modes_right or each.unseen)}
    wrong |= names - {each.name for each in trials if each.modes_right}
    unseen = sum(each.unseen and not each.modes_right for each in trials)
    right = sum(each.time_right for each in trials)
    dangerous = [each for each in trials if each.dangerous]
    strictly = sum(each.ratio <= 2 for each in dangerous)
    missed = [each for each in dangerous if not each.warned]
    safe = [each for each in trials if not each.dangerous]
    alarms = [each for each in safe if each.warned]
    share = [each.share for each in trials]
    lines = [
        f"- Lock modes right: {len(names) - len(wrong)} of {len(names)} revisions; in {unseen} of "
        f"{len(trials)} trials the live statement was over before `pg_locks` could be asked.",
        f"- Times within a factor of two, or {FLOOR_S * 1000:.0f} ms: {right} of {len(trials)} "
        f"({right / len(trials):.0%}). Where somebody waited for {DANGEROUS_S:g} s or more, within "
        f"a factor of two whatever the difference: {strictly} of {len(dangerous)}.",
        f"- Dangerous, as somebody waited for {DANGEROUS_S:g} s or more: {len(dangerous)} of "
        f"{len(trials)}; called safe: {len(missed)}. Not dangerous: {len(safe)}; warned of: "
        f"{len(alarms)}.",
        f"- Of a rehearsal with its copy, the looks took {statistics.median(share):.1%} (median), "
        f"{max(share):.1%} at most.",
    ]
    if any(each.rules for each in trials):
        missed = [each for each in dangerous if not each.rules]
        alarms = [each for each in safe if each.rules]
        lines.append(
            f"- `squawk` on the rendered SQL: of the dangerous, called safe: {len(missed)}; of the "
            f"others, warned of: {len(alarms)}."
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 50_000, 400_000])
    parser.add_argument("--only", default="", help="part of a revision's name, or `cost`")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, help="a file to go on from")
    parser.add_argument("--write-docs", action="store_true")
    options = parser.parse_args()
    kept = options.results
    lines = kept.read_text().splitlines() if kept is not None and kept.exists() else []
    trials = [Trial.kept(line) for line in lines]
    done = {(each.name, each.rows) for each in trials}
    with tempfile.TemporaryDirectory() as folder, postgres_server.folder_of_one() as place:
        postgres_server.initialise(place)
        with postgres_server.serving(place, **SETTINGS) as (server, _):
            bench = Bench(server, Path(folder), place.folder / "log")
            for rows in options.rows:
                bench.prepare(rows)
            for name in REVISIONS:
                for rows in options.rows:
                    if options.only in name and (name, rows) not in done:
                        trials.append(trial := bench.run(name, rows))
                        times = f"{trial.predicted_s:.3f} / {trial.real_s:.3f} s"
                        right = "" if trial.modes_right else f" {trial.predicted} {trial.real}"
                        if kept is not None:
                            with kept.open("a") as file:
                                file.write(json.dumps(vars(trial)) + "\n")
                        print(f"{name}, {rows}: {times}{right}", trial.rules, flush=True)
            priced = []
            if options.only in ("", "cost"):
                middle = options.rows[len(options.rows) // 2]
                priced = bench.cost(middle, options.rounds)
            (version,) = server.execute("select current_setting('server_version')")
    found = [*verdict(trials), "", *table(trials, options.rows)] if trials else []
    found += priced
    print("\n".join(found))
    if options.write_docs:
        circumstances = f"PostgreSQL {version[0].split()[0]}, {len(trials)} trials."
        load = f"Load average at the end: {os.getloadavg()[0]:.0f}, on {os.cpu_count()} processors."
        page.write("rehearsal.md", "\n".join([f"{circumstances} {load}", "", *found]))


if __name__ == "__main__":
    main()

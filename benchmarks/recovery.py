"""What a snapshot and a restore cost: ours against the plain tool for the job.

    python benchmarks/recovery.py [--size-mb 1024] [--rounds 5] [--only sqlite] [--write-docs]

Both sides in one run, taken alternately, each in fresh processes; medians. CPU is that of all
processes, the server's included. Ours is `Migrator.run()` with backup-restore and a revision that
fails, each act timed by hooks (`recovery_ours.py`); only the SQLite copy alone is called directly.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import large_databases
import page
from child import measured
from spending import Cost, plain, settle

sys.path.insert(0, str(page.ROOT / "tests"))

import alembic_projects
import postgres_server

OURS = str(Path(__file__).with_name("recovery_ours.py"))
SHELL = shutil.which("sqlite3")
CREATEDB, DROPDB, PSQL = (shutil.which(name) for name in ("createdb", "dropdb", "psql"))
BACKUP = """
import sqlite3, sys
source, destination = (sqlite3.connect(name) for name in sys.argv[1:])
source.backup(destination)
"""
CHECK = """
import sqlite3, sys
print(sqlite3.connect(sys.argv[1]).execute("PRAGMA quick_check").fetchall())
"""
HEAD = """\
| database | act | ours | plain tool | its cost | ratio | ratio, CPU |
|---|---|---|---|---|---|---|"""
WATCHED = """\
| database | act | longest stall | without waiting for a CPU | peak memory |
|---|---|---|---|---|"""

Costs = dict[str, Cost]
"""What each act cost, by its name."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: the same act done by both sides, round by round."""

    database: str
    act: str
    tool: str
    ours: list[Cost]
    theirs: list[Cost]

    def __str__(self) -> str:
        ratios = (f"{median(self.ours, k) / median(self.theirs, k):.2f}" for k in ("wall", "cpu"))
        cells = (self.database, self.act, shown(self.ours), self.tool, shown(self.theirs), *ratios)
        return f"| {' | '.join(cells)} |"


@dataclass(frozen=True, slots=True)
class Watched:
    """What an act of ours does to the process that it happens in, at worst."""

    database: str
    act: str
    costs: list[Cost]

    def __str__(self) -> str:
        stall, blocked = (max(each[k] for each in self.costs) * 1000 for k in ("stall", "blocked"))
        peak = max(each["peak"] for each in self.costs)
        return (
            f"| {self.database} | {self.act} | {stall:.0f} ms | {blocked:.0f} ms | {peak:.0f} MB |"
        )


def median(costs: list[Cost], key: str) -> float:
    return statistics.median(each[key] for each in costs)


def shown(costs: list[Cost]) -> str:
    return f"{median(costs, 'wall'):.2f} s (CPU {median(costs, 'cpu'):.2f} s)"


def alternating(
    rounds: int, size_mb: int, sides: dict[str, Callable[[], Costs]]
) -> dict[str, dict[str, list[Cost]]]:
    """Every side once a round, each other round the other way round; costs by side and act."""
    found: dict[str, dict[str, list[Cost]]] = {side: {} for side in sides}
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            settle(size_mb * 2)  # as much as a copy and a restore fill
            for act, cost in sides[side]().items():
                found[side].setdefault(act, []).append(cost)
    return found


def failing(folder: Path) -> None:
    """The database is at r1; r2 is committed, r3 fails, and r2 is what is left to undo."""
    table = 'op.create_table("t", sa.Column("id", sa.Integer, primary_key=True))'
    alembic_projects.revision(folder, large_databases.START, None)
    alembic_projects.revision(folder, "r2", large_databases.START, upgrade=table)
    alembic_projects.revision(folder, "r3", "r2", upgrade='raise ValueError("meant to fail")')


def project(folder: Path, url: str) -> str:
    made = alembic_projects.project(folder, "per_migration", url, revisions=failing, other_url=url)
    return str(made.config)


def backup(source: Path, destination: Path) -> list[str]:
    return [sys.executable, "-c", BACKUP, str(source), str(destination)]


def sqlite_rows(folder: Path, size_mb: int, rounds: int) -> Iterator[Row | Watched]:
    live, copy = folder / "live.db", folder / "copy.db"
    large_databases.sqlite(live, size_mb)
    url = f"sqlite+aiosqlite:///{live}"
    ini = project(folder / "project", url)
    saved, put_back = backup(live, copy), backup(copy, live)
    check = [sys.executable, "-c", CHECK, str(copy)]
    if SHELL:
        saved = [SHELL, str(live), f".backup '{copy}'"]
        put_back = [SHELL, str(live), f".restore '{copy}'"]
        check = [SHELL, str(copy), "PRAGMA quick_check"]

    def run(what: str) -> Costs:
        costs = measured(OURS, what, url, ini)
        for left in folder.glob("live.db.snapshot-*"):
            left.unlink()
        return costs

    def run_and_copy() -> Costs:
        costs = run("run") | measured(OURS, "copy", str(live), str(copy))
        copy.unlink()
        return costs

    def tools() -> Costs:
        costs = {"copy": plain(saved), "restore": plain(put_back)}
        copy.unlink()
        costs["snapshot"] = plain(saved, check)
        copy.unlink()
        return costs

    tool = "`.backup`", "`.backup`, `PRAGMA quick_check`", "`.restore`"
    for mode, name in (("delete", "SQLite"), ("wal", "SQLite, WAL")):
        with closing(sqlite3.connect(live)) as connection:
            connection.execute(f"PRAGMA journal_mode={mode}")
        sides = {"ours": run_and_copy, "tools": tools, "watched": lambda: run("watched")}
        found = alternating(rounds, size_mb, sides)
        mine, plain_tools = found["ours"], found["tools"]
        yield Row(name, "copy alone", tool[0], mine["copy"], plain_tools["copy"])
        yield Row(name, "snapshot: copy, check", tool[1], mine["snapshot"], plain_tools["snapshot"])
        yield Row(name, "restore", tool[2], mine["restore"], plain_tools["restore"])
        yield from (Watched(name, act, costs) for act, costs in found["watched"].items())


def postgresql_rows(folder: Path, size_mb: int, rounds: int) -> Iterator[Row | Watched]:
    """A way by pg_dump and pg_restore is one more of `sides`, and its tools' one more still."""
    if not (CREATEDB and DROPDB and PSQL):
        print("PostgreSQL is not measured: createdb, dropdb, psql not on PATH", file=sys.stderr)
        return
    live, copy, new, old = (f"am_bench_{name}" for name in ("live", "copy", "new", "old"))
    with postgres_server.running() as server:
        server.drop_all("am_bench_")
        server.create(live)
        large_databases.postgresql(server, live, size_mb)
        url = server.url(live)
        ini = project(folder / "project", url)
        (pid,) = server.execute("select split_part(pg_read_file('postmaster.pid'), chr(10), 1)")
        postmaster = int(pid[0])
        dsn = alembic_projects.make_url(server.admin).set(drivername="postgresql")
        administration = dsn.render_as_string(hide_password=False)
        maintenance = f"--maintenance-db={administration}"

        def template(what: str) -> Costs:
            server.execute("checkpoint")
            costs = measured(OURS, what, url, ini, str(postmaster))
            for name in server.databases(live):
                if name != live:
                    server.drop(name)
            return costs

        def created(name: str, source: str, *options: str) -> list[str]:
            return [str(CREATEDB), maintenance, f"--template={source}", *options, name]

        def drop_first() -> Costs:
            server.execute("checkpoint")
            copied = plain(created(copy, live), server=postmaster)
            drop = [str(DROPDB), maintenance, live]
            put_back = plain(drop, created(live, copy), server=postmaster)
            server.drop(copy)
            return {"snapshot": copied, "restore": put_back}

        def swap() -> Costs:
            """As ours does it: what is there goes when its replacement stands."""
            server.execute("checkpoint")
            by_file = "--strategy=file_copy"
            copied = plain(created(copy, live, by_file), server=postmaster)
            renames = [f"ALTER DATABASE {live} RENAME TO {old}"]
            renames.append(f"ALTER DATABASE {new} RENAME TO {live}")
            put_back = plain(
                created(new, copy, by_file),
                [str(PSQL), "-q", "-d", administration, *(x for r in renames for x in ("-c", r))],
                [str(DROPDB), maintenance, old],
                server=postmaster,
            )
            server.drop(copy)
            return {"snapshot": copied, "restore": put_back}

        sides = {
            "ours": lambda: template("run"),
            "watched": lambda: template("watched"),
            "drop first": drop_first,
            "swap": swap,
        }
        try:
            found = alternating(rounds, size_mb, sides)
        finally:
            server.drop_all("am_bench_")
    for side, act, tool in (
        ("drop first", "snapshot", "`createdb -T`"),
        ("swap", "snapshot", "`createdb -T -S file_copy`"),
        ("drop first", "restore", "`dropdb`, `createdb -T`"),
        ("swap", "restore", "`createdb -T -S file_copy`, two renames, `dropdb`"),
    ):
        mine, plain_tool = found["ours"][act], found[side][act]
        yield Row("PostgreSQL, template copy", act, tool, mine, plain_tool)
    for act, costs in found["watched"].items():
        yield Watched("PostgreSQL, template copy", act, costs)


KINDS = {"sqlite": sqlite_rows, "postgresql": postgresql_rows}


def circumstances(size_mb: int, rounds: int) -> str:
    tool = "the command line's" if SHELL else "one step of Python's `backup()` instead of"
    said = [f"{size_mb} MB, {rounds} rounds, {os.cpu_count()} CPUs, {platform.system()}"]
    said.append(f"SQLite {sqlite3.sqlite_version} ({tool} `.backup`)")
    if CREATEDB:
        version = subprocess.run(
            [CREATEDB, "--version"], capture_output=True, text=True, check=True
        )
        said.append(version.stdout.strip())
    return "; ".join(said) + "."


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--size-mb", type=int, default=1024)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--only", choices=KINDS)
    arguments.add_argument("--write-docs", action="store_true")
    options = arguments.parse_args()
    if options.write_docs and options.only:
        arguments.error("--write-docs writes the whole table: leave out --only")
    lines: list[Row | Watched] = []
    for kind, rows in KINDS.items():
        if options.only in (None, kind):
            with tempfile.TemporaryDirectory(prefix="automigrator-recovery-") as folder:
                for row in rows(Path(folder), options.size_mb, options.rounds):
                    lines.append(row)
                    print(row, flush=True)
    tables = [
        "\n".join([head, *(str(line) for line in lines if isinstance(line, kind))])
        for kind, head in ((Row, HEAD), (Watched, WATCHED))
    ]
    found = "\n\n".join([*tables, circumstances(options.size_mb, options.rounds)])
    print(f"\n{found}")
    if options.write_docs:
        page.write("recovery-cost.md", found)


if __name__ == "__main__":
    main()

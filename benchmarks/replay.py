"""What replay reaches: tenants a second against raw DDL, and against `alembic upgrade` one by one.

    python benchmarks/replay.py [--tenants 100] [--rounds 3] [--connections 8] [--sample 5]
                                [--only schemas] [--write-docs]

Each tenant has 20 revisions pending, each of which makes one small table. All ways run in turn,
each on fresh tenants; medians. The first tenant's proof is not counted. Raw DDL: the statements of
all revisions in one transaction and in one query a tenant, sent by asyncpg. One by one: a process a
tenant, as an operator's loop over `alembic upgrade head` has it, for a sample of tenants. Every
tenant is compared at the end with one that plain Alembic has migrated. CPU is that of our process
and of the server, together.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import page
import small_revisions

sys.path.insert(0, str(page.ROOT / "tests"))

from support import alembic_projects, postgres_server
from support.replayed_tenants import SCHEMA_ENV, of_schema

from automigrator import Migrator, Target
from automigrator.fleet.replay.player import Player
from automigrator.fleet.replay.replay import Replay
from automigrator.migrations.execution import Execution, Migration
from automigrator.runner.session import opened

PENDING = 20
FIRST, HEAD = small_revisions.identifier(0), small_revisions.identifier(PENDING)
DDL = [
    *(f"CREATE TABLE t{n} (id SERIAL NOT NULL, PRIMARY KEY (id))" for n in range(1, PENDING + 1)),
    f"UPDATE alembic_version SET version_num='{HEAD}'",
]
START = f"""
    create table alembic_version (version_num varchar(32) not null,
        constraint alembic_version_pkc primary key (version_num));
    insert into alembic_version values ('{FIRST}');
    create table t0 (id serial not null, primary key (id));
"""
SHAPE = """
    select md5(string_agg(line, chr(10) order by line)) from (
        select concat_ws('|', c.relname, c.relkind, a.attname, a.atttypid, a.attnotnull,
            replace(pg_get_expr(d.adbin, d.adrelid), n.nspname || '.', ''))
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
        left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
        where n.nspname = $1) as lines (line)
"""
REPLAY, ALONE, RAW, ONE_BY_ONE = WAYS = (
    "replay, whole runs",
    "replay, without the run around it",
    "raw DDL",
    "one by one",
)
LINES = [
    "| tenants | way | tenants/s | CPU, ms a tenant | **times one by one** | **share of raw** |",
    f"|{'---|' * 6}",
]


@dataclass
class Bench:
    """The tenants of one kind; `kind` is `schemas` or `databases`."""

    kind: str
    server: postgres_server.Server
    root: Path
    count: int
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        made = alembic_projects.project(
            self.root,
            "generic",
            self.server.url("am_bench_none"),
            revisions=lambda versions: small_revisions.write(versions, PENDING + 1),
        )
        if self.kind == "schemas":
            (self.root / "migrations" / "env.py").write_text(SCHEMA_ENV)
        self.config = made.config
        self.names = [f"am_bench_{number:04}" for number in range(self.count)]

    def place(self, name: str) -> tuple[str, str]:
        """The database of a tenant, and its schema."""
        return ("am_bench", name) if self.kind == "schemas" else (name, "public")

    def fresh(self) -> None:
        """Have all tenants at the first revision."""
        self.server.drop_all("am_bench")
        self.server.create("am_bench")
        scripts = [START]
        if self.kind == "schemas":
            scripts = [f"create schema {n}; set search_path to {n}; {START}" for n in self.names]
        asyncio.run(self._begun(scripts))
        for name in self.names if self.kind == "databases" else ():
            self.server.execute(f"create database {name} template am_bench")

    async def _begun(self, scripts: Sequence[str]) -> None:
        connection = await asyncpg.connect(self.dsn("am_bench"))
        for each in scripts:
            await connection.execute(each)
        await connection.close()

    def dsn(self, database: str) -> str:
        """A URL without a driver."""
        return self.server.url(database).replace("+asyncpg", "")

    def target(self, name: str) -> Target:
        database, schema = self.place(name)
        options = of_schema(schema) if self.kind == "schemas" else {}
        return Target(self.server.url(database), self.config, name=name, **options)

    def wrong(self, names: Sequence[str], like: str) -> list[str]:
        """The tenants that are not as `like`, which plain Alembic has migrated."""

        def shape(name: str) -> Any:
            database, schema = self.place(name)
            sql = f"select version_num from {schema}.alembic_version"
            heads = [row[0] for row in self.server.execute(sql, database=database)]
            return heads, self.server.execute(SHAPE, schema, database=database)[0][0]

        wanted = shape(like)
        assert wanted[0] == [HEAD]
        return [name for name in names if shape(name) != wanted]

    def alembic(self, name: str) -> None:
        """`alembic upgrade head` in a process of its own."""
        database, schema = self.place(name)
        url = alembic_projects.with_sync_driver(self.server.url(database)).replace("%", "%%")
        ini = re.sub(r"(?m)^(sqlalchemy.url) = .*$", f"\\1 = {url}", self.config.read_text())
        own = self.config.with_name(f"{name}.ini")
        own.write_text(ini)
        more = ["-x", f"tenant={schema}"] if self.kind == "schemas" else []
        command = [sys.executable, "-m", "alembic", "-c", str(own), *more, "upgrade", "head"]
        ended = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr

    async def replay(
        self, names: Sequence[str], connections: int, clock: Clock, *, alone: bool = False
    ) -> None:
        """`alone`: without the run around it, its lock, looks and records."""
        replay = Replay()
        async with runs() as run:

            async def bring(name: str) -> None:
                migrator = Migrator(self.target(name), mode="migrate", announce=False)
                migrator.replay = replay
                report = await run(migrator)
                assert report.targets[0].drive == "replay", report

            await bring(names[0])  # it proves, on copies of itself
            (proof,) = replay._proofs.values()
            assert proof.course is not None
            course = proof.course
            async with opened(self.target(names[1])) as session:
                history = await session.history()

            async def play(name: str) -> None:
                plan = course.of(name if self.kind == "schemas" else None).stretches[0].plan
                assert plan is not None
                async with opened(self.target(name)) as at:
                    migration = Migration(at.target, at.backend, history, at.place)
                    await Player(migration, plan, Execution()).play()

            clock.start(names[1:])
            await at_once(names[1:], play if alone else bring, connections)
            clock.stop()

    async def raw(self, names: Sequence[str], connections: int, clock: Clock) -> None:
        clock.start(names)
        kept: list[Any] = []

        async def bring(name: str) -> None:
            database, schema = self.place(name)
            own = self.kind == "databases" or not kept
            connection = await asyncpg.connect(self.dsn(database)) if own else kept.pop()
            script = ";\n".join(["BEGIN", f"SET LOCAL search_path TO {schema}", *DDL, "COMMIT"])
            await connection.execute(script)
            if self.kind == "databases":
                await connection.close()
            else:
                kept.append(connection)

        await at_once(names, bring, connections)
        for each in kept:
            await each.close()
        clock.stop()

    async def one_by_one(self, names: Sequence[str], _: int, clock: Clock) -> None:
        clock.start(names)
        for name in names:
            self.alembic(name)
        clock.stop()


@asynccontextmanager
async def runs() -> AsyncIterator[Callable[[Migrator], Awaitable[Any]]]:
    """Context manager: what runs a migrator; in a cohort, where there is one."""
    if importlib.util.find_spec("automigrator.cohort") is None:
        yield lambda migrator: migrator.run()
        return
    async with importlib.import_module("automigrator.cohort").Cohort() as cohort:
        yield cohort.run


async def at_once(
    names: Sequence[str], bring: Callable[[str], Awaitable[None]], connections: int
) -> None:
    left = list(names)

    async def worker() -> None:
        while left:
            await bring(left.pop())

    await asyncio.gather(*(worker() for _ in range(connections)))


def cpu_s(postmaster: int) -> float:
    """Seconds of CPU: this process and its children, the server and all its sessions so far."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid, parent = int(stat.parent.name), int(fields[1])
        if pid in (postmaster, os.getpid()):
            ticks += sum(map(int, fields[11:15]))
        elif parent == postmaster:
            ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


class Clock:
    """Seconds on the wall and of CPU; `postmaster` is the server's first process."""

    def __init__(self, postmaster: int) -> None:
        self.postmaster, self.tenants = postmaster, 0

    def start(self, names: Sequence[str]) -> None:
        self.tenants = len(names)
        self.began, self.before = time.perf_counter(), cpu_s(self.postmaster)

    def stop(self) -> None:
        seconds, cpu = time.perf_counter() - self.began, cpu_s(self.postmaster) - self.before
        self.found = self.tenants / seconds, cpu / self.tenants * 1000


def measured(bench: Bench, way: str, connections: int, sample: int) -> tuple[float, float]:
    """Tenants a second, and milliseconds of CPU a tenant."""
    bench.fresh()
    (backend,) = bench.server.execute("select pg_backend_pid()")[0]
    stat = Path(f"/proc/{backend}/stat").read_text()
    clock = Clock(int(stat.rpartition(")")[2].split()[1]))
    *names, like = bench.names
    names = names[:sample] if way == ONE_BY_ONE else names
    work = {
        REPLAY: bench.replay,
        ALONE: partial(bench.replay, alone=True),
        RAW: bench.raw,
        ONE_BY_ONE: bench.one_by_one,
    }
    asyncio.run(work[way](names, connections, clock))
    bench.alembic(like)
    wrong = bench.wrong(names, like)
    assert not wrong, (way, wrong)
    return clock.found


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--tenants", type=int, default=100)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--connections", type=int, default=8)
    arguments.add_argument("--sample", type=int, default=5)
    arguments.add_argument("--only", choices=["schemas", "databases"])
    arguments.add_argument("--write-docs", action="store_true")
    options = arguments.parse_args()
    if options.write_docs and options.only:
        arguments.error("--write-docs writes the whole table: leave out --only")
    lines = list(LINES)
    with postgres_server.running() as server:
        try:
            for kind in ("databases", "schemas"):
                if options.only not in (None, kind):
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    bench = Bench(kind, server, Path(folder), options.tenants + 1)
                    lines += table(bench, options)
        finally:
            server.drop_all("am_bench")
    found = "\n".join(
        [
            *lines,
            "",
            f"{options.rounds} rounds, {os.cpu_count()} CPUs, {options.connections} at once, "
            f"{PENDING} revisions pending; 0 wrong tenants.",
        ]
    )
    print(f"\n{found}")
    if options.write_docs:
        page.write("fleet-replay.md", found)


def table(bench: Bench, options: argparse.Namespace) -> list[str]:
    """The lines of one kind of tenants."""
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way in WAYS:
            found[way].append(measured(bench, way, options.connections, options.sample))
            print(bench.kind, way, *(f"{each:.1f}" for each in found[way][-1]), flush=True)
    rates = {way: statistics.median(rate for rate, _ in found[way]) for way in WAYS}
    cpus = {way: statistics.median(cpu for _, cpu in found[way]) for way in WAYS}
    return [
        f"| {options.tenants} {bench.kind} | {way} | {rates[way]:.1f} | {cpus[way]:.0f} "
        f"| **{rates[way] / rates[ONE_BY_ONE]:.1f}** | **{rates[way] / rates[RAW]:.2f}** |"
        for way in WAYS
    ]


if __name__ == "__main__":
    main()

"""What it costs to bring many tenants to head: schemas of one database, and databases.

    python benchmarks/fleet.py [--schemas 200] [--databases 100] [--revisions 20] [--sample 20]
                               [--idle 900] [--write-docs]

Every side migrates tenants of its own that are alike, on one server: plain Alembic in a subprocess
for each tenant (a sample of them is enough), plain Alembic in a loop of one process, one
`Migrator.run()` after the other, a `Cohort` one after the other, and a `Cohort` in each of two
processes, four runs at a time. Then as many schemas as `--idle` with nothing pending, and databases
that are made at sign-up. The heads and tables of every tenant are compared with those that plain
Alembic made.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import page
import small_revisions
from child import measured
from databases import databases
from sqlalchemy import make_url
from support import alembic_projects, postgres_server

SIDE = str(Path(__file__).with_name("fleet_side.py"))
HERE = "am_bench_fleet"
HEADER = [
    "| tenants | by | measured | seconds a tenant | tenants a second | times as quick as a "
    "subprocess each | times as quick as a loop | CPU of the client, ms | of the server, ms |",
    f"|{'---|' * 9}",
]
WAYS = {
    "subprocess": "`alembic upgrade head`, a subprocess each",
    "loop": "`command.upgrade` in a loop",
    "migrator": "`Migrator.run()`, one after the other",
    "cohort": "`Cohort`, one after the other",
    "cohorts": "`Cohort` in 2 processes, 4 at a time",
}


@dataclass
class Fleet:
    """Tenants of one kind, some for each side."""

    kind: str
    count: int
    server: postgres_server.Server
    revisions: int
    project: Any
    seconds: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Of the clients, and of the server's sessions that have ended."""
    measured: dict[str, int] = field(default_factory=dict)

    def names(self, way: str, count: int) -> list[str]:
        return [f"{HERE}_{way}_{number:04}" for number in range(count)]

    def url(self, name: str) -> str:
        url = make_url(self.server.url(HERE)).set(drivername="postgresql+psycopg")
        if self.kind == "schemas":
            url = url.update_query_dict({"options": f"-csearch_path={name}"})
        else:
            url = url.set(database=name)
        return url.render_as_string(hide_password=False)

    def make(self, names: list[str]) -> None:
        """Give each side the tenants that it is to migrate, all alike."""
        if self.kind == "schemas":
            made = "; ".join(f"create schema {name}" for name in names)
            self.server.execute(f"do $$ begin {made}; end $$", database=HERE)
        else:
            for name in names:
                self.server.create(name)

    def drop(self, names: list[str]) -> None:
        for name in names:
            if self.kind == "schemas":
                self.server.execute(f"drop schema {name} cascade", database=HERE)
            else:
                self.server.drop(name)

    def measure(self, way: str, count: int) -> None:
        names = self.names(way, count)
        self.make(names)
        small_revisions.forget_heads(self.project.versions)
        server, clients = self.server_cpu(), children_cpu()
        self.seconds[way] = self.took(way, names) / count
        spent = children_cpu() - clients, self.server_cpu() - server
        self.cpu[way] = spent[0] / count, spent[1] / count
        self.measured[way] = count
        self.check(names)
        self.drop(names)

    def took(self, way: str, names: list[str]) -> float:
        """Migrate the tenants; return the seconds without those until a process is ready."""
        if way == "subprocess":
            began = time.perf_counter()
            for name in names:
                alembic = [sys.executable, "-m", "alembic", "-c", str(self.project.config)]
                env = {**os.environ, "DATABASE_URL": self.url(name)}
                subprocess.run([*alembic, "upgrade", "head"], check=True, env=env, stderr=-3)
            return time.perf_counter() - began
        if way != "cohorts":
            return self.side(way, names)["wall"]
        with ThreadPoolExecutor(2) as pool:
            ends = pool.map(lambda n: self.side("together", names[n::2]), (0, 1))
            return max(each["wall"] for each in ends)

    def side(self, way: str, names: list[str]) -> dict[str, float]:
        """What one process costs that migrates these tenants."""
        urls = self.project.config.with_name(f"urls-{names[0]}.json")
        urls.write_text(json.dumps({name: self.url(name) for name in names}))
        return measured(SIDE, way, self.kind, str(self.project.config), str(urls))

    def server_cpu(self) -> float:
        """Seconds of CPU of all sessions of the server that have ended."""
        ((text,),) = self.server.execute("select pg_read_file('postmaster.pid')")
        fields = Path(f"/proc/{text.split()[0]}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[13:15])) / os.sysconf("SC_CLK_TCK")

    def check(self, names: list[str]) -> None:
        """Every tenant is at head, and has the tables that plain Alembic makes."""
        wanted = {f"t{number}" for number in range(self.revisions)} | {"alembic_version"}
        head = small_revisions.identifier(self.revisions - 1)
        databases = [HERE] if self.kind == "schemas" else names
        found: dict[str, set[str]] = {}
        for database in databases:
            rows = self.server.execute(
                "select schemaname, tablename from pg_tables "
                "where schemaname !~ '^pg_' and schemaname <> 'information_schema'",
                database=database,
            )
            for schema, table in rows:
                tenant = schema if self.kind == "schemas" else database
                found.setdefault(tenant, set()).add(table)
        for name in names:
            assert found[name] == wanted, (name, found[name])
            where = (HERE, f"{name}.") if self.kind == "schemas" else (name, "")
            rows = self.server.execute(
                f"select version_num from {where[1]}alembic_version", database=where[0]
            )
            assert [row[0] for row in rows] == [head], name

    def lines(self) -> list[str]:
        lines = []
        for way, each in self.seconds.items():
            times = [self.seconds["subprocess"] / each, self.seconds["loop"] / each]
            cells = [f"{self.count} {self.kind}", WAYS[way], str(self.measured[way])]
            cells += [f"{each:.3f}", f"{1 / each:.1f}", *(f"{n:.1f}" for n in times)]
            cells += [f"{1000 * spent:.0f}" for spent in self.cpu[way]]
            lines.append(f"| {' | '.join(cells)} |")
        return lines


def children_cpu() -> float:
    """Seconds of CPU of all processes that this one has started, and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


ENV = """
import os
import resource
from logging.config import fileConfig

from alembic import context
from sqlalchemy import engine_from_config, pool

config = context.config
if config.config_file_name is not None:
    fileConfig(config.config_file_name)
if "DATABASE_URL" in os.environ:
    config.set_main_option("sqlalchemy.url", os.environ["DATABASE_URL"].replace("%", "%%"))
connectable = engine_from_config(
    config.get_section(config.config_ini_section, {}),
    prefix="sqlalchemy.",
    poolclass=pool.NullPool,
)
with connectable.connect() as connection:
    context.configure(connection=connection, target_metadata=None)
    with context.begin_transaction():
        context.run_migrations()
"""


def idle(fleet: Fleet, count: int) -> str:
    """What a start costs where as many schemas lack nothing."""
    names = fleet.names("idle", count)
    fleet.make(names)
    head = small_revisions.identifier(fleet.revisions - 1)
    for first in range(0, count, 100):
        made = "; ".join(
            f"create table {name}.alembic_version (version_num varchar(32) primary key); "
            f"insert into {name}.alembic_version values ('{head}')"
            for name in names[first : first + 100]
        )
        fleet.server.execute(f"do $$ begin {made}; end $$", database=HERE)
    # twice: once with half of them, for what each needs in memory
    half, whole = fleet.side("idle", names[: count // 2]), fleet.side("idle", names)
    more_kb = (whole["memory_kb"] - half["memory_kb"]) / (count - count // 2) * 100
    fleet.drop(names)
    return (
        f"{count} schemas with nothing pending: {whole['wall']:.2f} s, "
        f"{whole['connections']:.0f} connection(s); {count // 2} of them: {half['wall']:.2f} s; "
        f"memory for each 100 more: {more_kb / 1024:.2f} MB."
    )


def signed_up(fleet: Fleet) -> str:
    """What it takes to make a new tenant's database."""
    names = fleet.names("new", 11)
    spent = fleet.side("add", names)
    fleet.check(names)
    fleet.drop(names)
    fleet.server.drop_all("fleet__automigrator_template")
    return (
        f"`fleet.add` of a database: {1000 * spent['each']:.0f} ms (median of {len(names) - 1}); "
        f"the first, which makes the template: {1000 * spent['template']:.0f} ms."
    )


def main() -> None:
    arguments = argparse.ArgumentParser()
    for name, default in (("schemas", 200), ("databases", 100), ("revisions", 20)):
        arguments.add_argument(f"--{name}", type=int, default=default)
    arguments.add_argument("--sample", type=int, default=20)
    arguments.add_argument("--idle", type=int, default=900)
    arguments.add_argument("--write-docs", action="store_true")
    options = arguments.parse_args()
    found = list(HEADER)
    with tempfile.TemporaryDirectory() as folder, databases() as made:
        server = made._server
        server.create(HERE)
        url = server.url(HERE)
        project = alembic_projects.project(
            Path(folder),
            "generic",
            url,
            revisions=lambda versions: small_revisions.write(versions, options.revisions),
            other_url=url,
        )
        (project.versions.parent / "env.py").write_text(ENV, "utf-8")
        for kind in ("schemas", "databases"):
            count = getattr(options, kind)
            if not count:
                continue
            fleet = Fleet(kind, count, server, options.revisions, project)
            for way in WAYS:
                fleet.measure(way, min(options.sample, count) if way == "subprocess" else count)
                print(way, f"{fleet.seconds[way]:.4f}", flush=True)
            found += fleet.lines()
            print("\n".join(found), flush=True)
        if options.idle:
            fleet = Fleet("schemas", options.idle, server, options.revisions, project)
            found += ["", idle(fleet, options.idle)]
        found += ["", signed_up(Fleet("databases", 11, server, options.revisions, project))]
        found += ["", made.circumstances(1)]
    print("\n".join(found))
    if options.write_docs:
        page.write("cohort.md", "\n".join(found))


if __name__ == "__main__":
    main()

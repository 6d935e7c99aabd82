"""Measure a start with nothing pending: automigrator beside `alembic upgrade heads`, in CPU time.

    python benchmarks/nothing_to_do.py [--rounds 7] [--revisions 100 1000 5000] [--write-docs]

Each figure is the median of fresh processes; the two sides run in turn. PostgreSQL is the tests'
server. Garbage is collected before each phase, so that none pays for another one's.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import page
import small_revisions
from child import measured

sys.path.insert(0, str(page.ROOT / "tests"))

REVISIONS = (100, 1000, 5000)
TARGETS = ("engine", "engine, logged", "URL")
PHASES = ("import", "construct", "run")
Rows = list[dict[str, float]]

ENV = """
import asyncio

from alembic import context
from sqlalchemy import engine_from_config, pool
from sqlalchemy.ext.asyncio import async_engine_from_config

config = context.config
section = config.get_section("alembic")


def migrate(connection):
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()


async def migrate_async():
    async with async_engine_from_config(section, poolclass=pool.NullPool).connect() as connection:
        await connection.run_sync(migrate)


if "+asyncpg" in section["sqlalchemy.url"]:
    asyncio.run(migrate_async())
else:
    with engine_from_config(section, poolclass=pool.NullPool).connect() as connection:
        migrate(connection)
"""

BEGIN = """
import asyncio, gc, json, logging, sys, time
import sqlalchemy.ext.asyncio as sa
kind, url, env_url, ini = sys.argv[1:]
engine = url if kind == "URL" else sa.create_async_engine(url)
if kind == "engine, logged":
    logging.basicConfig(level=logging.INFO, stream=open("/dev/null", "w"))
spent = {}

class phase:
    def __init__(self, name):
        self.name = name
        gc.collect()
    def __enter__(self):
        self.began = time.process_time()
    def __exit__(self, *error):
        spent[self.name] = time.process_time() - self.began
"""

OURS = """
with phase("import"):
    from automigrator import Migrator, Target
with phase("construct"):
    migrator = Migrator(Target(engine, ini), mode="migrate")

run = phase("run")

async def main():
    with run:
        report = await migrator.run()
    assert report.outcome == "current" and "alembic" not in sys.modules, report
"""

AGAIN = """
from stall import Stall

async def again():
    select = __import__("sqlalchemy").text("SELECT version_num FROM alembic_version")
    async with engine.connect() as connection:  # an application that is in use
        await connection.execute(select)
    seconds = {"again": [], "select": []}
    for _ in range(20):
        began = time.process_time()
        await migrator.run()
        seconds["again"].append(time.process_time() - began)
        began = time.process_time()
        async with engine.connect() as connection:
            await connection.execute(select)
        seconds["select"].append(time.process_time() - began)
    spent.update({name: sorted(each)[10] for name, each in seconds.items()})
    await engine.dispose()

async def everything():
    stall = Stall()
    async with stall:
        await main()
    spent["stall"] = stall.longest
    await again()
"""

ALEMBIC = """
with phase("import"):
    from alembic import command
    from alembic.config import Config
with phase("construct"):
    config = Config(ini)
    config.set_main_option("sqlalchemy.url", env_url.replace("%", "%%"))
with phase("run"):
    command.upgrade(config, "heads")
"""

FIRST = f"{BEGIN}{OURS}\nasyncio.run(main())\nprint(json.dumps(spent))"
FIRST_AND_MORE = f"{BEGIN}{OURS}{AGAIN}\nasyncio.run(everything())\nprint(json.dumps(spent))"
THEIRS = f"{BEGIN}{ALEMBIC}\nprint(json.dumps(spent))"


def history(folder: Path, count: int) -> Path:
    """A linear history; returns its ini."""
    versions = folder / "migrations" / "versions"
    versions.mkdir(parents=True)
    (folder / "migrations" / "env.py").write_text(ENV)
    (folder / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s/migrations\n")
    small_revisions.write(versions, count)
    return folder / "alembic.ini"


async def stamped(url: str, revision: str) -> None:
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        await connection.execute(
            text("INSERT INTO alembic_version VALUES (:revision)"), {"revision": revision}
        )
    await engine.dispose()


@contextmanager
def servers() -> Iterator[Callable[[int], dict[str, tuple[str, str]]]]:
    """Makes an empty database of each kind; gives the application's URL and env.py's by name."""
    from support import postgres_server

    with tempfile.TemporaryDirectory() as folder, postgres_server.running() as server:

        def urls(count: int) -> dict[str, tuple[str, str]]:
            name = f"am_bench_{count}"
            server.drop(name)
            server.create(name)
            file = f"{folder}/{count}.db"
            return {
                "SQLite": (f"sqlite+aiosqlite:///{file}", f"sqlite:///{file}"),
                "PostgreSQL": (server.url(name), server.url(name)),
            }

        yield urls
        server.drop_all("am_bench_")


def median(rows: Rows, *keys: str) -> float:
    """The median of the sum of these figures, in milliseconds."""
    return statistics.median(sum(each[key] for key in keys) for each in rows) * 1000


def phases(rows: Rows) -> str:
    """Each phase, and the whole, in milliseconds."""
    parts = " | ".join(f"{median(rows, phase):.1f}" for phase in PHASES)
    return f"{parts} | **{median(rows, *PHASES):.1f}**"


def start_row(name: str, count: int, kind: str, ours: Rows, theirs: Rows) -> str:
    ratio = median(theirs, *PHASES) / median(ours, *PHASES)
    return f"| {name} | {count:,} | {kind} | {phases(ours)} | {phases(theirs)} | 1/{ratio:.1f} |"


def run_row(name: str, count: int, cold: Rows, more: Rows) -> str:
    again, select = median(more, "again"), median(more, "select")
    return (
        f"| {name} | {count:,} | {median(cold, 'run'):.1f} | {median(more, 'run'):.1f} "
        f"| {again:.2f} | {select:.2f} | {again / select:.1f} | {median(more, 'stall'):.1f} |"
    )


STARTS = [
    "CPU time of a start in milliseconds: `import automigrator`, `Migrator(Target(…))`, `run()`; "
    "`import alembic.command`, `Config(…)`, `upgrade(config, 'heads')`.",
    "",
    "| database | revisions | target | import | construct | run | **sum** "
    "| Alembic: import | construct | upgrade | **sum** | ratio |",
    f"|{'---|' * 12}",
]

RUNS = [
    "The run alone, for an engine, in milliseconds of CPU; the last column is how long the event "
    "loop waited at most, on the clock.",
    "",
    "| database | revisions | first `run()`, every file read | first `run()`, heads remembered "
    "| second `run()` | bare SELECT | ratio | longest stall |",
    f"|{'---|' * 8}",
]


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--revisions", type=int, nargs="+", default=REVISIONS)
    arguments.add_argument("--only", default="", help="SQLite or PostgreSQL")
    arguments.add_argument("--write-docs", action="store_true")
    options = arguments.parse_args()
    starts, runs = list(STARTS), list(RUNS)
    with tempfile.TemporaryDirectory() as folder, servers() as urls:
        for count in options.revisions:
            ini = history(Path(folder) / str(count), count)
            for name, (url, env_url) in urls(count).items():
                if options.only not in ("", name):
                    continue
                asyncio.run(stamped(url, small_revisions.identifier(count - 1)))
                for kind in TARGETS:
                    given = kind, url, env_url, str(ini)
                    for code in (THEIRS, FIRST):  # they write the .pyc files and the cache
                        measured("-c", code, *given)
                    ours, theirs = [], []
                    for _ in range(options.rounds):
                        ours.append(measured("-c", FIRST, *given))
                        theirs.append(measured("-c", THEIRS, *given))
                    starts.append(start_row(name, count, kind, ours, theirs))
                    print(starts[-1], flush=True)
                cold, more = [], []
                for _ in range(options.rounds):
                    small_revisions.forget_heads(ini.parent / "migrations" / "versions")
                    cold.append(measured("-c", FIRST, "engine", url, env_url, str(ini)))
                    more.append(measured("-c", FIRST_AND_MORE, "engine", url, env_url, str(ini)))
                runs.append(run_row(name, count, cold, more))
                print(runs[-1], flush=True)
    found = "\n".join([*starts, "", *runs])
    print(f"\n{found}")
    if options.write_docs:
        page.write("nothing-to-do.md", found)


if __name__ == "__main__":
    main()

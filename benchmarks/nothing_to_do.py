"""What a start with nothing pending costs: ours against `alembic upgrade heads`, in CPU time.

    python benchmarks/nothing_to_do.py [--rounds 7] [--write-docs]

Each figure is the median over fresh processes, taken alternately. Both sides pay for what they
import beyond SQLAlchemy, for connecting, and for the garbage they make: it is collected before.
`import automigrator` has a line of its own.
PostgreSQL is measured where the tests' server can be started.
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
from child import measured

sys.path.insert(0, str(page.ROOT / "tests"))

REVISIONS = (100, 1000, 5000)
Rows = list[dict[str, float]]

ENV = """
from alembic import context
from sqlalchemy import engine_from_config, pool

config = context.config
with engine_from_config(
    config.get_section("alembic"), prefix="sqlalchemy.", poolclass=pool.NullPool
).connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""

FILE = '''"""number {number}

Revision ID: {revision}
Revises: {down}
Create Date: 2026-01-01 00:00:00.000000

"""
from typing import Sequence, Union

from alembic import op
import sqlalchemy as sa


# revision identifiers, used by Alembic.
revision: str = {revision!r}
down_revision: Union[str, Sequence[str], None] = {down!r}
branch_labels: Union[str, Sequence[str], None] = None
depends_on: Union[str, Sequence[str], None] = None


def upgrade() -> None:
    """Upgrade schema."""
    op.create_table("t{number}", sa.Column("id", sa.Integer, primary_key=True))


def downgrade() -> None:
    """Downgrade schema."""
    op.drop_table("t{number}")
'''

OURS = """
import asyncio, gc, json, sys, time
import sqlalchemy.ext.asyncio as sa
from stall import Stall
url, ini = sys.argv[1:]
gc.collect()  # or it is chance whose import meets a collection of all SQLAlchemy's objects
before = time.process_time()
from automigrator import Migrator, Target
imported = time.process_time()

async def main():
    engine = sa.create_async_engine(url)
    migrator = Migrator(Target(engine, ini), mode="migrate")
    stall = Stall()
    gc.collect()
    began = time.process_time()
    async with stall:
        report = await migrator.run()
    first = time.process_time()
    assert report.outcome == "current", report
    assert "alembic" not in sys.modules
    async with engine.connect() as connection:  # an application that is in use
        await connection.execute(sa.text("SELECT version_num FROM alembic_version"))
    seconds, bare = [], []
    for _ in range(20):
        began2 = time.process_time()
        await migrator.run()
        seconds.append(time.process_time() - began2)
    for _ in range(20):
        began2 = time.process_time()
        async with engine.connect() as connection:
            await connection.execute(sa.text("SELECT version_num FROM alembic_version"))
        bare.append(time.process_time() - began2)
    await engine.dispose()
    print(json.dumps({
        "import": imported - before, "run": first - began, "stall": stall.longest,
        "again": sorted(seconds)[10], "select": sorted(bare)[10],
    }))

sa.text = __import__("sqlalchemy").text
asyncio.run(main())
"""

ALEMBIC = """
import gc, json, sys, time
import sqlalchemy.ext.asyncio
url, ini = sys.argv[1:]
gc.collect()
before = time.process_time()
from alembic import command
from alembic.config import Config
config = Config(ini)
config.set_main_option("sqlalchemy.url", url)
command.upgrade(config, "heads")
print(json.dumps({"run": time.process_time() - before}))
"""


def history(folder: Path, count: int) -> Path:
    """A linear history; returns its ini."""
    versions = folder / "migrations" / "versions"
    versions.mkdir(parents=True)
    (folder / "migrations" / "env.py").write_text(ENV)
    (folder / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s/migrations\n")
    for number in range(count):
        down = f"r{number - 1:06}" if number else None
        text = FILE.format(number=number, revision=f"r{number:06}", down=down)
        (versions / f"r{number:06}_number.py").write_text(text)
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
    """Makes an empty database of each kind; gives their async and sync URLs by name."""
    from support import postgres_server

    with tempfile.TemporaryDirectory() as folder, postgres_server.running() as server:

        def urls(count: int) -> dict[str, tuple[str, str]]:
            name = f"am_bench_{count}"
            server.drop(name)
            server.create(name)
            file = f"{folder}/{count}.db"
            postgres = server.url(name)
            return {
                "SQLite": (f"sqlite+aiosqlite:///{file}", f"sqlite:///{file}"),
                "PostgreSQL": (postgres, postgres.replace("+asyncpg", "+psycopg")),
            }

        yield urls
        server.drop_all("am_bench_")


def median(rows: Rows, key: str) -> float:
    return statistics.median(each[key] for each in rows) * 1000


def forget(folder: Path) -> None:
    """Remove the remembered heads, as in a new container."""
    for cache in folder.glob("migrations/versions/__pycache__/automigrator-*.json"):
        cache.unlink()


def row(name: str, count: int, cold: Rows, ours: Rows, theirs: Rows) -> str:
    upgrade, run, read = median(theirs, "run"), median(ours, "run"), median(cold, "run")
    again, select = median(ours, "again"), median(ours, "select")
    return (
        f"| {name} | {count:,} | {upgrade:.0f} ms | {read:.1f} ms (1/{upgrade / read:.0f}) "
        f"| {run:.1f} ms (1/{upgrade / run:.0f}) | {again:.2f} ms | {select:.2f} ms "
        f"| {again / select:.1f} | {median(ours, 'stall'):.1f} ms |"
    )


def chart(curves: dict[str, list[float]]) -> str:
    """The cost against the number of revisions."""
    lines = ["```mermaid", "xychart-beta"]
    lines.append(f'    title "first run() in ms of CPU: {", ".join(curves)}"')
    lines.append(f"    x-axis revisions [{', '.join(map(str, REVISIONS))}]")
    lines.append('    y-axis "ms"')
    for values in curves.values():
        lines.append(f"    line [{', '.join(f'{value:.1f}' for value in values)}]")
    return "\n".join([*lines, "```"])


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--write-docs", action="store_true")
    options = arguments.parse_args()
    lines = [
        "| database | revisions | `alembic upgrade heads` | first `run()`, every file read | "
        "first `run()`, heads remembered | second `run()` | bare SELECT | ratio | longest stall |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    imports: list[float] = []
    curves: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, servers() as urls:
        for count in REVISIONS:
            ini = history(Path(folder) / str(count), count)
            for name, (url, sync_url) in urls(count).items():
                asyncio.run(stamped(url, f"r{count - 1:06}"))
                measured("-c", ALEMBIC, sync_url, str(ini))  # writes the .pyc files
                cold, ours, theirs = [], [], []
                for _ in range(options.rounds):
                    forget(ini.parent)
                    cold.append(measured("-c", OURS, url, str(ini)))
                    ours.append(measured("-c", OURS, url, str(ini)))
                    theirs.append(measured("-c", ALEMBIC, sync_url, str(ini)))
                imports += [each["import"] * 1000 for each in ours]
                curves.setdefault(f"{name}, every file read", []).append(median(cold, "run"))
                curves.setdefault(f"{name}, remembered", []).append(median(ours, "run"))
                lines.append(row(name, count, cold, ours, theirs))
                print(lines[-1], flush=True)
    note = f"`import automigrator` beside SQLAlchemy: {statistics.median(imports):.0f} ms."
    found = "\n\n".join(["\n".join(lines), note, chart(curves)])
    print(f"\n{found}")
    if options.write_docs:
        page.write("nothing-to-do.md", found)


if __name__ == "__main__":
    main()

"""What a test pays for a migrated database: the fixtures of pytest-automigrator.

    python benchmarks/fixtures.py [--rounds 3] [--tests 60] [--only SQLite] [--write-docs]

Per line a project with so many revisions. A session has so many tests, each of which opens the
database of `migrated_engine` and sends one SELECT; what it takes beyond a session of tests that do
nothing, divided by their number, is the cost of a test. The first session makes the template, which
is told apart. Beside it: `alembic upgrade head` on an empty database, in its own process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import page
import small_revisions
from databases import Databases, databases
from support import alembic_projects

TESTS = """
import pytest
from sqlalchemy import text

@pytest.mark.parametrize("n", range({count}))
def test_with_a_database(migrated_engine, n):
    with migrated_engine.connect() as connection:
        connection.execute(text("SELECT 1"))

@pytest.mark.parametrize("n", range({count}))
def test_without(n):
    pass
"""
COLUMN = 'op.add_column("t{table}", sa.Column("c{number}", sa.Integer))'
TABLE_EVERY = 10
SHAPES = ("a table each", f"a table every {TABLE_EVERY}, else a column")

HEAD = [
    "| database | revisions | what each makes | **a test** | `alembic upgrade head` | **ratio** "
    "| the session that makes the template, more |",
    f"|{'---|' * 7}",
]


def write(versions: Path, count: int, shape: str) -> None:
    """The revisions of a shape."""
    small_revisions.write(versions, count)
    if shape == SHAPES[0]:
        return
    for number in range(count):
        if number % TABLE_EVERY:
            path = versions / f"{small_revisions.identifier(number)}_number.py"
            lines = path.read_text().splitlines()
            table = number - number % TABLE_EVERY
            added = COLUMN.format(table=table, number=number)
            dropped = f'op.drop_column("t{table}", "c{number}")'
            made = [f"    {added}" if "op.create_table" in each else each for each in lines]
            made = [f"    {dropped}" if "op.drop_table" in each else each for each in made]
            path.write_text("\n".join(made) + "\n")


def session_s(folder: Path, env: dict[str, str], chosen: str, kind: str) -> float:
    """How long pytest takes, by its own clock."""
    report = folder / "report.json"
    plugin = "import json, time\nbegan = time.perf_counter()\n"
    plugin += "def pytest_sessionfinish():\n"
    plugin += f"    open({str(report)!r}, 'w').write(json.dumps(time.perf_counter() - began))\n"
    (folder / "clock.py").write_text(plugin)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "clock", "-p", "no:cacheprovider"]
    command += ["-k", chosen, f"--automigrator-database={kind}", "-p", "no:asyncio"]
    ended = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout
    return float(json.loads(report.read_text()))


def compared(
    made: Databases, kind: str, count: int, shape: str, options: argparse.Namespace
) -> str:
    """One line of the table."""
    url = made.url(kind)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        project = alembic_projects.project(
            folder,
            "generic",
            url,
            revisions=lambda versions: write(versions, count, shape),
            other_url=url,
        )
        (folder / "pytest.ini").write_text("[pytest]\n")
        (folder / "test_it.py").write_text(TESTS.format(count=options.tests))
        env = {**os.environ, "PYTHONPATH": str(folder)}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        if kind == "PostgreSQL":
            env["AUTOMIGRATOR_TEST_POSTGRES"] = made.url(kind).replace("am_bench_live", "postgres")
        upgrades = []
        for _ in range(options.rounds + 1):
            made.empty(kind)
            command = [
                sys.executable,
                "-m",
                "alembic",
                "-c",
                str(project.config),
                "upgrade",
                "head",
            ]
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, cwd=folder, env=env)
            upgrades.append(time.perf_counter() - began)
        name = kind.lower()
        first = session_s(folder, env, "with_a_database", name)
        rounds = []
        for _ in range(options.rounds):
            all_s = session_s(folder, env, "with_a_database", name)
            rounds.append((all_s, session_s(folder, env, "without", name)))
    a_test = statistics.median(one - other for one, other in rounds) / options.tests
    upgrade = statistics.median(upgrades[1:])
    more = first - statistics.median(one for one, _ in rounds)
    return (
        f"| {kind} | {count:,} | {shape} | **{a_test * 1000:.1f} ms** | {upgrade * 1000:,.0f} ms "
        f"| **{upgrade / a_test:,.0f}** | {more:.1f} s |"
    )


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--tests", type=int, default=60)
    arguments.add_argument("--only", choices=Databases.KINDS)
    arguments.add_argument("--write-docs", action="store_true")
    options = arguments.parse_args()
    if options.write_docs and options.only:
        arguments.error("--write-docs writes the whole table: leave out --only")
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    os.environ["TMPDIR"] = memory or tempfile.gettempdir()  # the server's data, too
    lines = list(HEAD)
    with databases(memory) as made:
        for kind in Databases.KINDS:
            if options.only not in (None, kind):
                continue
            for count in (100, 1000):
                for shape in SHAPES:
                    lines.append(compared(made, kind, count, shape, options))
                    print(lines[-1], flush=True)
        lines += ["", made.circumstances(options.rounds)]
    found = "\n".join(lines)
    print(f"\n{found}")
    if options.write_docs:
        page.write("testing-your-migrations.md", found)


if __name__ == "__main__":
    main()

"""What a test pays for a migrated database: the fixtures of pytest-automigrator.

    python benchmarks/fixtures.py [--rounds 3] [--tests 60] [--only SQLite] [--write-docs]

Per line a project with so many revisions. In a session so many tests open the database of
`migrated_engine` and send one SELECT: a test is the median of what its setup, its call and its
teardown take, without that of a test that does nothing; CPU is that of pytest's process. What the
first test of a session pays besides (imports, the digest, the first connection), and the first one
ever (the template) are told apart. Beside it: `alembic upgrade head` on an empty database, in a
process of its own. Each is the best of the rounds: what else the machine does only adds.
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
    "| database | revisions | what each makes | **a test** | its CPU | `alembic upgrade head` "
    "| **ratio** | once a session | once a digest |",
    f"|{'---|' * 9}",
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


PLUGIN = """
import json, time
import pytest
spent = {}
@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    began = time.perf_counter(), time.process_time()
    yield
    spent[item.nodeid] = time.perf_counter() - began[0], time.process_time() - began[1]
    return True
def pytest_sessionfinish():
    with open("spent.json", "w") as file:
        json.dump(spent, file)
"""


def session(folder: Path, env: dict[str, str], kind: str) -> tuple[float, float, float]:
    """The seconds of the first test with a database, of another, and the CPU of that one.

    What a test without a database takes is not counted.
    """
    (folder / "clock.py").write_text(PLUGIN)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "clock", "-p", "no:cacheprovider"]
    command += [f"--automigrator-database={kind}", "-p", "no:asyncio"]
    ended = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout
    spent = json.loads((folder / "spent.json").read_text())
    with_one = [each for name, each in spent.items() if "with_a_database" in name]
    without = [each for name, each in spent.items() if "without" in name]
    (one, cpu), (nothing, its_cpu) = (
        [statistics.median(each) for each in zip(*part, strict=True)]
        for part in (with_one[1:], without)
    )
    return with_one[0][0], one - nothing, cpu - its_cpu


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
        upgrade = [sys.executable, "-m", "alembic", "-c", str(project.config), "upgrade", "head"]
        for _ in range(options.rounds + 1):
            made.empty(kind)
            began = time.perf_counter()
            subprocess.run(upgrade, check=True, capture_output=True, cwd=folder, env=env)
            upgrades.append(time.perf_counter() - began)
        made_s, *_ = session(folder, env, kind.lower())
        rounds = [session(folder, env, kind.lower()) for _ in range(options.rounds)]
    first, a_test, cpu = (min(each) for each in zip(*rounds, strict=True))
    once = first - a_test
    plain = min(upgrades[1:])
    ratio = plain / a_test
    return (
        f"| {kind} | {count:,} | {shape} | **{a_test * 1000:.1f} ms** | {cpu * 1000:.1f} ms "
        f"| {plain * 1000:,.0f} ms | **{ratio:,.0f}** | {once:.2f} s | {made_s - first:.1f} s |"
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

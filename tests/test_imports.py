"""A start with nothing to do imports little: no Alembic, no pluggy, nothing for failures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.alembic_projects import project

import automigrator

HEAVY = {
    "alembic",
    "configparser",
    "difflib",
    "email",
    "importlib.metadata",
    "multiprocessing",
    "pluggy",
    "shutil",
    "subprocess",
    "tempfile",
    "tomllib",
}
"""Modules that an application may never need; those that SQLAlchemy imports do not count."""

ROOT = """
import sqlalchemy.ext.asyncio, aiosqlite, asyncpg, json, sys
before = set(sys.modules)
import automigrator
print(json.dumps(sorted(set(sys.modules) - before)))
"""

RUN = """
import asyncio, json, sys
from sqlalchemy.ext.asyncio import create_async_engine
url, ini = sys.argv[1:]
engine = create_async_engine(url)
before = set(sys.modules)
from automigrator import Migrator, Target

async def main():
    report = await Migrator(Target(engine, ini), mode="migrate").run()
    assert report.outcome == "current", report
    print(json.dumps(sorted(set(sys.modules) - before)))
    await engine.dispose()

asyncio.run(main())
"""


def imported(code: str, *arguments: str) -> set[str]:
    command = [sys.executable, "-c", code, *arguments]
    shown = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return set(json.loads(shown))


def test_the_package_alone_imports_nothing_else() -> None:
    assert imported(ROOT) == {"automigrator"}


@pytest.mark.long("[postgresql")
async def test_a_start_with_nothing_to_do_imports_little(database_url: str, tmp_path: Path) -> None:
    url = database_url
    made = project(tmp_path, "generic", url)
    await automigrator.Migrator(automigrator.Target(url, made.config), mode="migrate").run()
    names = imported(RUN, url, str(made.config))
    assert not {name for name in names if name in HEAVY or name.partition(".")[0] in HEAVY}
    ours = {name for name in names if name.startswith("automigrator.")}
    needless = ("failure", "status", "retention", "events", "hooks.registry", "runner.pipeline")
    assert not ours & {f"automigrator.{name}" for name in needless}
    parts = {name.rpartition(".")[2] for name in ours if name.startswith("automigrator.backends.")}
    assert not parts & {
        "snapshot",
        "side",
        "doctor",
        "recover",
        "hold",
        "lock",
        "errors",
        "journal",
    }


@pytest.mark.parametrize("name", automigrator.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(automigrator, name) is not None
    assert name in dir(automigrator)


def test_public_names_are_sorted_and_others_are_absent() -> None:
    assert automigrator.__all__ == sorted(automigrator.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Migrater'"):
        automigrator.Migrater  # noqa: B018

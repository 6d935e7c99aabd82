"""The application's own migrator: its target says which database, its env.py which tables."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import pytest

pytest_plugins = "pytester"

APPLICATION = """
from automigrator import Migrator, Target

migrator = Migrator(Target({url!r}, "alembic.ini"))
"""
ALCHEMY = """
from advanced_alchemy.config import {kind}Config
from automigrator_advanced_alchemy import target_of

from automigrator import Migrator

alchemy = {kind}Config(connection_string={url!r})
alchemy.alembic_config.script_config = "alchemy.ini"
migrator = Migrator(target_of(alchemy), mode="migrate")
"""
KIND = "def test_kind(automigrator_kind): assert automigrator_kind == {!r}\n"
TABLE = 'op.create_table("notes", sa.Column("id", sa.Integer, primary_key=True), {})'


@pytest.mark.parametrize("where", ["pytest's ini", "pyproject.toml"])
def test_the_target_of_the_application_says_which_kind_of_database(
    project: Any, where: str
) -> None:
    project.lay()
    (project.folder / "shop.py").write_text(
        APPLICATION.format(url="postgresql://nobody@nowhere/db")
    )
    if where == "pyproject.toml":
        (project.folder / where).write_text("[tool.automigrator]\napp = 'shop:migrator'\n")
    else:
        project.configure(app="shop:migrator")
    project.run(KIND.format("postgresql")).assert_outcomes(passed=1)
    result = project.run(KIND.format("sqlite"), "--automigrator-database=sqlite")
    result.assert_outcomes(passed=1)


def test_a_url_of_the_command_says_which_kind_of_database(project: Any) -> None:
    project.lay()
    (project.folder / "pyproject.toml").write_text("[tool.automigrator]\nurl = 'postgresql:///x'\n")
    project.run(KIND.format("postgresql")).assert_outcomes(passed=1)


def test_a_version_table_of_another_name_is_no_table_of_the_users(project: Any) -> None:
    project.lay()
    env = project.folder / "migrations" / "env.py"
    named = "connection=connection, version_table='applied', target_metadata"
    text = env.read_text().replace("connection=connection, target_metadata", named)
    env.write_text(text)
    assert named in text
    project.run(
        "from pytest_automigrator.tests import test_round_trip, test_round_trip_with_made_rows"
    ).assert_outcomes(passed=2)


@pytest.mark.plugins
@pytest.mark.filterwarnings("ignore:No path_separator found")
@pytest.mark.parametrize("kind", ["SQLAlchemyAsync", "SQLAlchemySync"])
def test_an_env_py_that_takes_its_engine_from_its_config_is_led_to_the_tests_database(
    project: Any, kind: str
) -> None:
    alchemy = pytest.importorskip("advanced_alchemy.alembic.commands")
    driver = "sqlite+aiosqlite" if kind == "SQLAlchemyAsync" else "sqlite"
    own = project.folder / "own.db"
    (project.folder / "shop.py").write_text(ALCHEMY.format(kind=kind, url=f"{driver}:///{own}"))
    project.configure(app="shop:migrator")
    make = (
        "from shop import alchemy\nfrom advanced_alchemy.alembic.commands import AlembicCommands\n"
    )
    make += "AlembicCommands(alchemy).init(directory='migrations')"
    assert alchemy and project.python(make) == 0
    project.revision(
        "r1",
        None,
        upgrade=TABLE.format('sa.Column("a", sa.Text)'),
        downgrade='op.drop_table("notes")',
    )
    project.revision(
        "r2",
        "r1",
        upgrade='op.add_column("notes", sa.Column("b", sa.Text))',
        downgrade='op.drop_column("notes", "b")',
    )
    tests = "from pytest_automigrator.tests import *"  # there are no models to match
    result = project.run(tests, "-k", "not models", "-W", "ignore:No path_separator")
    result.assert_outcomes(passed=7, skipped=1, deselected=1)
    if own.exists():
        with closing(sqlite3.connect(own)) as connection:
            assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)

"""Coming from an entrypoint, create_all and Flask-Migrate: before, after, and back."""

from __future__ import annotations

import importlib.util
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.alembic_projects import project
from support.pages import Page, Section, run_python, run_shell, shell

from automigrator import Migrator, Target

pytestmark = pytest.mark.plugins

PAGE = Page("coming-from")
URL = "sqlite+aiosqlite:///app.db"

MODELS = """
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase):
    pass

class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(50))
"""


def test_every_section_is_played() -> None:
    assert PAGE.unplayed() == []


@PAGE.plays("An entrypoint with `alembic upgrade head`")
@pytest.mark.long
def test_either_command_goes_on_where_the_other_one_stopped(
    section: Section, tmp_path: Path
) -> None:
    before, after = section.all("sh")
    project(tmp_path, "async", URL, other_url=URL)
    for commands, said in ((after, "migrated, base -> r3"), (before, ""), (after, "current")):
        assert said in run_shell(commands, tmp_path, DATABASE_URL=URL)


@PAGE.plays("`create_all` at startup")
@pytest.mark.long
async def test_a_database_of_create_all_is_taken_over_with_its_rows(
    section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "models.py").write_text(MODELS, "utf-8")
    empty = "sqlite+aiosqlite:///empty.db"
    made = project(tmp_path, "async", URL, revisions=lambda folder: None, other_url=empty)
    env = made.versions.parent / "env.py"
    text, known = env.read_text("utf-8"), "from models import Base\ntarget_metadata = Base.metadata"
    env.write_text(text.replace("target_metadata = None", known), "utf-8")
    made.versions.mkdir(exist_ok=True)
    before, after = section.all("python")
    names: dict[str, Any] = {}
    await run_python(before, names)
    database = tmp_path / "shop.db"
    execute(database, "insert into users (name) values ('kept')")
    run_shell(section.the("sh"), tmp_path, PYTHONPATH=str(tmp_path))
    await run_python(after, names)
    assert execute(database, "select name from users") == [("kept",)]
    # a new one runs the revision
    new = Target("sqlite+aiosqlite:///new.db", "alembic.ini", baseline="0001")
    (report,) = await Migrator(new, mode="migrate").run()
    assert [each.revision for each in report.applied] == ["0001"]
    # and an old one that lacks a column is found out
    execute(database, "alter table users drop column name")
    status = await names["migrator"].check(models=names["Base"].metadata)
    assert "users.name" in str(status)
    # back: create_all passes over the version table
    await names["engine"].dispose()
    await run_python(before, names)
    await names["engine"].dispose()
    del sys.modules["models"]


def execute(file: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(file)) as connection, connection:
        return connection.execute(sql).fetchall()


@PAGE.plays("Flask-Migrate")
@pytest.mark.long
@pytest.mark.skipif(
    importlib.util.find_spec("flask_migrate") is None, reason="Flask-Migrate is not installed"
)
def test_flask_migrates_env_py_is_run_in_the_applications_context(
    section: Section, tmp_path: Path
) -> None:
    before, after, wiring = section.all("python")
    (tmp_path / "application.py").write_text(before, "utf-8")
    imports = "from application import create_app, db\n"
    (tmp_path / "main.py").write_text(imports + after, "utf-8")
    (tmp_path / "wiring.py").write_text(imports + wiring, "utf-8")
    outside = after.replace("with app.app_context():", "if True:").replace(
        "db.engine.url", "'sqlite:///instance/notes.db'"
    )
    (tmp_path / "outside.py").write_text(imports + outside, "utf-8")

    def typed(commands: str, ends_with: int = 0) -> str:
        ended = shell(commands, tmp_path, {"FLASK_APP": "application"}, ends_with)
        return ended.stdout + ended.stderr

    typed("flask db init && flask db migrate --rev-id 0001 -m notes && rm -r instance")
    typed("python main.py")  # nobody has asked for it
    assert "unversioned" not in typed("flask db current")
    typed("RUN_MIGRATIONS=1 python main.py")
    assert "0001 (head)" in typed("flask db current")
    assert "notes: current at 0001" in typed("automigrator --app wiring:migrator status")
    typed("flask db downgrade")
    told = typed("RUN_MIGRATIONS=1 python outside.py", 1)
    assert "outside of application context" in told
    assert "what to do: run the Migrator within the application's context" in told
    typed("RUN_MIGRATIONS=1 python main.py")
    assert "0001 (head)" in typed("flask db current")
    typed("flask db upgrade")  # back: nothing is left to do


@pytest.mark.long
@pytest.mark.skipif(
    importlib.util.find_spec("flask_migrate") is None, reason="Flask-Migrate is not installed"
)
def test_flask_migrate_with_several_binds_is_refused(tmp_path: Path) -> None:
    before, after, _ = PAGE.sections["Flask-Migrate"].all("python")
    one = 'app.config["SQLALCHEMY_DATABASE_URI"]'
    binds = f'app.config["SQLALCHEMY_BINDS"] = {{"logs": "sqlite:///logs.db"}}\n    {one}'
    (tmp_path / "application.py").write_text(before.replace(one, binds), "utf-8")
    imports = "from application import create_app, db\n"
    (tmp_path / "main.py").write_text(imports + after, "utf-8")
    commands = "flask db init --multidb && flask db revision -m one"
    shell(commands, tmp_path, {"FLASK_APP": "application"})
    refused = shell("python main.py", tmp_path, {"RUN_MIGRATIONS": "1"}, 1).stderr
    assert "env.py connected to another database" in refused

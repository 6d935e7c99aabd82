"""Every kind of env.py migrates the target's database, or fails saying why; on SQLite."""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import alembic
import pytest

from automigrator.databases.access import Access
from automigrator.databases.backend import backend_for
from automigrator.target import Target
from automigrator.upgrade import drives
from automigrator.upgrade.config import alembic_config
from automigrator.upgrade.environment import EnvError, Execution
from automigrator.upgrade.history import History

ENVS = Path(__file__).parent / "envs"
TEMPLATES = ("generic", "async", "pyproject", "pyproject_async")
LOGGING = """
[loggers]
keys=root
[handlers]
keys=console
[formatters]
keys=plain
[logger_root]
level=CRITICAL
handlers=console
[handler_console]
class=StreamHandler
args=(sys.stderr,)
[formatter_plain]
format=%(message)s
"""
REVISION = """
import sqlalchemy as sa
from alembic import op
revision = "{id}"
down_revision = {down!r}
def upgrade():
    op.create_table("t_{id}", sa.Column("id", sa.Integer, primary_key=True))
    {more}
def downgrade():
    op.drop_table("t_{id}")
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """The database that the ini, or env.py itself, names."""
    return tmp_path / "elsewhere.db"


def env_of(kind: str) -> str:
    if kind in TEMPLATES:
        return (Path(alembic.__file__).parent / "templates" / kind / "env.py").read_text("utf-8")
    return (ENVS / f"{kind}.py").read_text("utf-8")


def project(root: Path, kind: str, elsewhere: Path, *, third: str = "pass") -> Target:
    """A history of three revisions; the last runs `third` after its own table."""
    scripts = root / "migrations"
    (scripts / "versions").mkdir(parents=True)
    other = f"sqlite+aiosqlite:///{elsewhere}"
    (scripts / "env.py").write_text(env_of(kind).replace("<other url>", f"sqlite:///{elsewhere}"))
    (root / "alembic.ini").write_text(
        f"[alembic]\nscript_location=%(here)s/migrations\nsqlalchemy.url={other}\n{LOGGING}"
    )
    for id, down in (("r1", None), ("r2", "r1"), ("r3", "r2")):
        more = third if id == "r3" else "pass"
        text = REVISION.format(id=id, down=down, more=more)
        (scripts / "versions" / f"{id}.py").write_text(text)
    return Target(f"sqlite+aiosqlite:///{root / 'app.db'}", root / "alembic.ini")


async def upgraded(target: Target) -> Execution:
    backend = backend_for(Access(target))
    await backend.create()
    history = History(alembic_config(target, backend.access.url))
    engine = backend.engine()
    try:
        place = drives.Place(engine, backend.access.url, backend.in_place)
        way, _ = await drives.probe(target, backend, history, place)
        return await drives.drive(
            target, backend, history, place, way, revision=target.revision, apply=True
        )
    finally:
        await backend.release(engine)


def tables(path: Path) -> set[str]:
    if not path.exists():
        return set()
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return {row[0] for row in rows}


@pytest.mark.parametrize(
    "kind",
    [
        *TEMPLATES,
        "begin_outside",
        "cookbook",
        "cookbook_async",
        "create_task",
        "engine_attribute",
        "fileconfig_unguarded",
        "ignores_connection",
        "opens_second_engine",
        "per_migration",
        "swallows_connect_errors",
        "swallows_errors",
        "version_table",
    ],
)
async def test_an_unmodified_env_migrates_the_target_and_nothing_else(
    kind: str, tmp_path: Path, elsewhere: Path
) -> None:
    target = project(tmp_path, kind, elsewhere)
    root = logging.getLogger()
    before = (list(root.handlers), root.level, list(sys.path), dict(os.environ), os.getcwd())
    execution = await upgraded(target)
    assert [revision for revision, _ in execution.done] == ["r1", "r2", "r3"]
    assert {"t_r1", "t_r2", "t_r3"} <= tables(tmp_path / "app.db")
    assert tables(elsewhere) == set()
    after = (list(root.handlers), root.level, list(sys.path), dict(os.environ), os.getcwd())
    assert after == before


async def test_an_env_that_reads_its_url_from_the_environment_is_followed_there(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = project(tmp_path, "env_url", elsewhere)
    monkeypatch.setenv("DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path / 'app.db'}")
    await upgraded(target)
    assert "t_r3" in tables(tmp_path / "app.db")


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("offline_only", "returned without running migrations"),
        ("swallows_unreachable", "returned without running migrations"),
        ("hardcoded_url", "connected to another database"),
    ],
)
async def test_an_env_that_does_not_migrate_the_target_is_never_believed(
    kind: str, why: str, tmp_path: Path, elsewhere: Path
) -> None:
    with pytest.raises(EnvError, match=why):
        await upgraded(project(tmp_path, kind, elsewhere))
    assert tables(tmp_path / "app.db") == set() == tables(elsewhere)


@pytest.mark.parametrize(
    ("kind", "kept"), [("generic", set()), ("async", set()), ("per_migration", {"t_r1", "t_r2"})]
)
async def test_a_failed_revision_leaves_no_half_of_itself(
    kind: str, kept: set[str], tmp_path: Path, elsewhere: Path
) -> None:
    target = project(tmp_path, kind, elsewhere, third="op.execute('SELECT * FROM absent')")
    with pytest.raises(Exception, match="no such table: absent"):
        await upgraded(target)
    assert tables(tmp_path / "app.db") - {"alembic_version"} == kept

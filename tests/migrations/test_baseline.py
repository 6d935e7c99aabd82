"""Databases that do not start at base: bootstrapped when new, and known as such later."""

from __future__ import annotations

import importlib
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection
from support.alembic_projects import Project, heads, project, revision, tables

from automigrator import (
    ConfigurationError,
    MigrationError,
    Migrator,
    Report,
    Target,
    TargetReport,
)

pytestmark = pytest.mark.long("postgresql", "in a partial", "in parts")

READS_THE_TABLES = 'op.add_column("users", sa.Column("email", sa.String(50)))'


def create_all(connection: Connection) -> None:
    connection.exec_driver_sql("create table users (id integer primary key)")


def made(root: Path, url: str, upgrade: str) -> Project:
    return project(
        root, "generic", url, revisions=lambda folder: revision(folder, "r1", None, upgrade=upgrade)
    )


async def run(url: str, made: Project, **options: object) -> Report:
    target = Target(url, made.config, bootstrap=create_all, **made.options, **options)
    return await Migrator(target, mode="migrate").run()


async def test_a_bootstrap_that_returns_none_is_followed_by_every_revision(
    database_url: str, tmp_path: Path
) -> None:
    history = made(tmp_path, database_url, READS_THE_TABLES)

    report = await run(database_url, history)

    assert report.outcome == "migrated" and heads(database_url) == {"r1"}
    assert tables(database_url) == {"users", "alembic_version"}
    assert (await run(database_url, history)).outcome == "current"


async def test_a_plain_bootstrap_does_not_hold_up_the_event_loop(
    database_url: str, tmp_path: Path
) -> None:
    threads = []

    def called(connection: Connection) -> None:
        create_all(connection)
        threads.append(threading.current_thread())

    target = Target(database_url, made(tmp_path, database_url, "pass").config, bootstrap=called)
    await Migrator(target, mode="migrate").run()

    assert threads != [threading.current_thread()]


@pytest.mark.long
async def test_a_start_after_one_that_failed_between_bootstrap_and_revisions_goes_on_from_base(
    database_url: str, tmp_path: Path
) -> None:
    history = made(tmp_path, database_url, 'raise ValueError("not today")')
    with pytest.raises(MigrationError, match="not today"):
        await run(database_url, history)
    revision(history.versions, "r1", None, upgrade=READS_THE_TABLES)

    report = await run(database_url, history, baseline="r1")

    assert [applied.revision for applied in report.targets[0].applied] == ["r1"]
    assert heads(database_url) == {"r1"}


MODELS = """
from sqlalchemy import Column, Integer, MetaData, String, Table

metadata = MetaData()
users = Table("users", metadata, Column("id", Integer, primary_key=True))
posts = Table("posts", metadata, Column("id", Integer, primary_key=True))
elsewhere = MetaData()
Table("settings", elsewhere, Column("id", Integer, primary_key=True))
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The models of an application, which its env.py compares with the database."""
    name = "models_of_the_application"
    (tmp_path / f"{name}.py").write_text(MODELS, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module(name)
    del sys.modules[name]


class TestCreateAll:
    """What `create_all` makes is stamped at the head, where it is seen to have made the models."""

    @pytest.fixture
    def history(self, tmp_path: Path, database_url: str, models: Any) -> Project:
        made = project(tmp_path / "app", "generic", database_url)
        env = made.versions.with_name("env.py")
        named = "from models_of_the_application import metadata as target_metadata"
        text = env.read_text("utf-8")
        assert "target_metadata = None" in text
        env.write_text(text.replace("target_metadata = None", named), "utf-8")
        return made

    async def run(self, history: Project, url: str, bootstrap: Any) -> TargetReport:
        target = Target(url, history.config, bootstrap=bootstrap, **history.options)
        return (await Migrator(target, mode="migrate").run()).targets[0]

    @pytest.mark.parametrize("how", ["itself", "in a partial", "in a lambda", "async", "in parts"])
    async def test_it_is_stamped_at_the_head(
        self, how: str, history: Project, database_url: str, models: Any
    ) -> None:
        create_all = models.metadata.create_all

        async def awaited(connection: AsyncConnection) -> None:
            await connection.run_sync(create_all)

        def in_parts(connection: Connection) -> None:
            create_all(connection, tables=[models.users])
            models.elsewhere.create_all(connection)
            create_all(connection)

        ways = {
            "itself": create_all,
            "in a partial": partial(create_all, checkfirst=False),
            "in a lambda": lambda c: create_all(c),
            "async": awaited,
            "in parts": in_parts,
        }

        done = await self.run(history, database_url, ways[how])

        assert (done.outcome, done.applied, done.after) == ("migrated", (), ("r3",))
        assert heads(database_url) == {"r3"}
        assert {"users", "posts"} <= tables(database_url)
        again = await self.run(history, database_url, ways[how])
        assert again.outcome == "current"

    async def test_it_needs_no_word_of_env_py_where_it_is_the_bootstrap_itself(
        self, tmp_path: Path, database_url: str, models: Any
    ) -> None:
        history = project(tmp_path / "plain", "async", database_url)
        done = await self.run(history, database_url, models.metadata.create_all)
        assert (done.applied, done.after) == ((), ("r3",))

    async def test_a_note_says_that_no_revision_was_run(
        self, history: Project, database_url: str, models: Any
    ) -> None:
        done = await self.run(history, database_url, lambda c: models.metadata.create_all(c))
        (note,) = done.notes
        assert "returned None: the database is stamped at r3, and no revision was run" in note

    async def test_the_word_base_has_every_revision_run(
        self, history: Project, database_url: str, models: Any
    ) -> None:
        def based(connection: Connection) -> str:
            models.metadata.create_all(connection)
            models.metadata.drop_all(connection)
            return "base"

        done = await self.run(history, database_url, based)
        assert [each.revision for each in done.applied] == ["r1", "r2", "r3"]

    async def test_tables_of_other_models_are_followed_by_every_revision(
        self, history: Project, database_url: str, models: Any
    ) -> None:
        done = await self.run(history, database_url, lambda c: models.elsewhere.create_all(c))
        assert [each.revision for each in done.applied] == ["r1", "r2", "r3"]

    async def test_a_part_of_the_models_is_not_the_head(
        self, history: Project, database_url: str, models: Any
    ) -> None:
        part = partial(models.metadata.create_all, tables=[models.posts])
        with pytest.raises(MigrationError, match="posts.* already exists"):
            await self.run(history, database_url, part)
        assert heads(database_url) == set()

    async def test_models_without_a_table_are_refused(
        self, history: Project, database_url: str
    ) -> None:
        with pytest.raises(MigrationError, match="create_all of a MetaData without tables"):
            await self.run(history, database_url, MetaData().create_all)
        assert tables(database_url) == set()

    async def test_nothing_of_the_watch_stays_on_the_models(
        self, history: Project, database_url: str, models: Any
    ) -> None:
        await self.run(history, database_url, models.metadata.create_all)
        assert not list(models.metadata.dispatch.after_create)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": ""}, "baseline='' is not a revision"),
        ({"baseline": " "}, "baseline=' ' is not a revision"),
        ({"baseline": 3}, "baseline=3 is not a revision"),
        ({"baseline": True}, "baseline=True is not a revision"),
        ({"bootstrap": 3}, "bootstrap must be callable or the path of a schema file, not a int"),
        ({"bootstrap": MetaData()}, "not a MetaData; pass its create_all"),
        ({"load": 3}, "load must be callable, not a int"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_given(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Target("sqlite+aiosqlite:///app.db", tmp_path, **options)

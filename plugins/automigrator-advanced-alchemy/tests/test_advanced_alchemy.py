"""advanced-alchemy's configuration gives what advanced-alchemy's own command gives."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from advanced_alchemy.config import EngineConfig, SQLAlchemyAsyncConfig, SQLAlchemySyncConfig
from automigrator_advanced_alchemy import target_of
from histories import alchemy
from histories.schema import described, rows
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from support.alembic_projects import with_sync_driver

from automigrator import ConfigurationError, MigrationError, Migrator, Target
from automigrator.backends.model_engine import engine_beside
from automigrator.fleet import Fleet

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found")  # in its alembic.ini

MODELS = """
from advanced_alchemy.base import BigIntBase
from sqlalchemy.orm import Mapped

class Note(BigIntBase):
    text: Mapped[str]
"""
CONFIGURATION = """
import os
from advanced_alchemy.config import AlembicAsyncConfig, SQLAlchemyAsyncConfig
from models import Note

alchemy = SQLAlchemyAsyncConfig(
    connection_string=os.environ["URL"],
    bind_key=None,
    metadata=Note.metadata,
    alembic_config=AlembicAsyncConfig(
        script_config="settings/alembic.ini",
        script_location="database/migrations",
        version_table_name="applied",
        version_table_schema=os.environ.get("SCHEMA"),
    ),
)
"""
OURS = """
import asyncio
from configuration import alchemy
from automigrator import Migrator
from automigrator_advanced_alchemy import target_of

print(asyncio.run(Migrator(target_of(alchemy), mode="migrate").run()).outcome)
"""


@pytest.fixture
def another_url(database_url: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of the same kind, for advanced-alchemy's own command."""
    if database_url.startswith("sqlite"):
        return f"sqlite+aiosqlite:///{tmp_path / 'plain.db'}"
    server = request.getfixturevalue("postgres_server")
    name = request.getfixturevalue("postgres_name")
    server.create(name)
    return str(server.url(name))


def shown(url: str) -> tuple[Any, Any]:
    """The schema and the rows of a database."""
    engine = sa.create_engine(with_sync_driver(url), poolclass=sa.NullPool)
    with engine.connect() as connection:
        return described(connection), rows(connection)


@pytest.mark.long("postgresql")
@pytest.mark.parametrize("way", ["async", "sync"])
async def test_every_revision_gives_what_the_command_gives(
    way: str, database_url: str, another_url: str, tmp_path: Path
) -> None:
    with_driver = alchemy.with_async_driver if way == "async" else with_sync_driver
    commands = await asyncio.to_thread(alchemy.commands, with_driver(database_url), tmp_path)
    plain = await asyncio.to_thread(alchemy.commands, with_driver(another_url), tmp_path)
    await asyncio.to_thread(plain.upgrade)

    target = target_of(commands.sqlalchemy_config)
    report = await Migrator(target, mode="migrate").run()

    assert (report.outcome, len(report.targets[0].applied)) == ("migrated", 3)
    assert shown(database_url) == shown(another_url)
    assert (await Migrator(target, mode="migrate").run()).outcome == "current"
    if way == "async":
        await commands.sqlalchemy_config.get_engine().dispose()
        await plain.sqlalchemy_config.get_engine().dispose()


@pytest.mark.long
@pytest.mark.parametrize("schema", [None, "versions"])
def test_a_project_of_the_command_line_is_migrated_as_it_stands(
    schema: str | None, database_url: str, another_url: str, tmp_path: Path
) -> None:
    if schema is not None:
        if database_url.startswith("sqlite"):
            pytest.skip("SQLite has no schemas")
        for url in (database_url, another_url):
            engine = sa.create_engine(with_sync_driver(url), poolclass=sa.NullPool)
            with engine.begin() as connection:
                connection.execute(sa.schema.CreateSchema(schema))
    for name, text in {"models": MODELS, "configuration": CONFIGURATION, "ours": OURS}.items():
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text), "utf-8")
    (tmp_path / "settings").mkdir()

    def called(url: str, *command: str) -> str:
        environment = os.environ | {"URL": url} | ({"SCHEMA": schema} if schema else {})
        python = [sys.executable, *command]
        return subprocess.run(
            python, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
        ).stdout

    program = ["-m", "advanced_alchemy", "--config", "configuration.alchemy"]
    called(another_url, *program, "init", "--no-prompt", "database/migrations")
    called(another_url, *program, "make-migrations", "--no-prompt", "--message", "notes")
    called(another_url, *program, "upgrade", "--no-prompt")

    assert called(database_url, "ours.py").split() == ["migrated"]
    assert shown(database_url) == shown(another_url)
    assert "note" in shown(database_url)[0]
    assert called(database_url, "ours.py").split() == ["current"]


@pytest.mark.long("postgresql")
@pytest.mark.parametrize("way", ["async", "sync"])
class TestOnAnotherDatabase:
    """env.py takes its engine from its Config, and is led to the copy that is meant."""

    @pytest.fixture
    async def target(self, way: str, database_url: str, tmp_path: Path) -> AsyncIterator[Target]:
        with_driver = alchemy.with_async_driver if way == "async" else with_sync_driver
        made = await asyncio.to_thread(alchemy.commands, with_driver(database_url), tmp_path)
        yield target_of(made.sqlalchemy_config)
        if way == "async":
            await made.sqlalchemy_config.get_engine().dispose()

    async def test_a_schema_file_is_made_and_checked(self, target: Target, tmp_path: Path) -> None:
        migrator, file = Migrator(target), tmp_path / "schema.sql"
        await migrator.dump_schema(file)
        assert await migrator.check_schema(file) == ()
        assert "authors" not in shown(target.application_url.render_as_string(False))[0]

    async def test_a_copy_is_rehearsed_on(self, target: Target) -> None:
        await Migrator(target._replace(revision="0001"), mode="migrate").run()
        report = await Migrator(target, mode="migrate", rehearse=True).run()
        assert (report.outcome, len(report.targets[0].applied)) == ("migrated", 2)
        assert report.targets[0].rehearsed_s is not None

    @pytest.mark.plugins
    async def test_a_fresh_database_takes_the_place_of_one_with_rows_that_do_not_fit(
        self, target: Target
    ) -> None:
        await Migrator(target._replace(revision="0001"), mode="migrate").run()
        url = target.application_url.render_as_string(hide_password=False)
        engine = sa.create_engine(with_sync_driver(url), poolclass=sa.NullPool)
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "INSERT INTO authors (id, name, created_at) "
                f"SELECT '{8:032x}', name, created_at FROM authors"
            )
        report = await Migrator(target, mode="migrate", recovery=["purge"]).run()
        assert (report.outcome, report.targets[0].after) == ("recovered", ("0003",))


async def test_what_the_engine_writes_on_a_copy_is_what_it_writes_itself(tmp_path: Path) -> None:
    """Its listeners, its arguments, its way to write JSON: a sqlite database."""
    seen = list[str]()
    given = create_async_engine(
        f"sqlite+aiosqlite:///{tmp_path / 'app.db'}",
        json_serializer=lambda value: "written by the application",
        connect_args={"cached_statements": 7},
        execution_options={"note": 1},
    )

    def connected(connection: Any, record: Any) -> None:
        connection.create_function("twice", 1, lambda value: value * 2)

    sa.event.listen(given.sync_engine, "connect", connected)
    sa.event.listen(
        given.sync_engine, "before_cursor_execute", lambda *called: seen.append(called[2])
    )
    made = engine_beside(given, str(tmp_path / "copy.db"))
    assert isinstance(made, AsyncEngine)
    async with made.connect() as connection:
        statement = sa.select(sa.func.twice(4), sa.literal({}, sa.JSON).cast(sa.Text))
        assert (await connection.execute(statement)).one() == (8, "written by the application")
    assert len(seen) == 1 and (tmp_path / "copy.db").exists()
    assert not (tmp_path / "app.db").exists()


@pytest.mark.plugins
async def test_half_a_revision_of_the_template_is_told_and_found(tmp_path: Path) -> None:
    """On sqlite: its tables stand in a function that upgrade() calls."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'app.db'}"
    made = await asyncio.to_thread(alchemy.commands, url, tmp_path)
    await asyncio.to_thread(add_one_that_fails_in_its_middle, made)
    migrator = Migrator(target_of(made.sqlalchemy_config), mode="migrate")
    with pytest.raises(MigrationError, match="what to do: undo by hand what stayed") as caught:
        await migrator.run()

    failure = caught.value.report.targets[0].failures[-1]
    assert (failure.state, failure.revision) == ("partial-within-revision", "0004")
    (hint,) = failure.hints
    assert hint == "table papers exists, and 0004, which has failed in its middle, creates it"
    (hint,) = (await migrator.doctor()).targets[0].hints
    assert "table papers exists already, and 0004 creates it" in hint

    restoring = Migrator(*migrator.targets, mode="migrate", recovery=["backup-restore"])
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        connection.execute("DROP TABLE papers")
    await migrator.clear()
    with pytest.raises(MigrationError) as caught:
        await restoring.run()
    assert "undo by hand" not in f"{caught.value} {caught.value.report}"


def add_one_that_fails_in_its_middle(made: Any) -> None:
    script = made.revision(message="papers", rev_id="0004")
    body = 'op.create_table("papers", sa.Column("id", sa.Integer))\n    op.execute("absent")'
    where = '    """schema upgrade migrations go here."""\n'
    text = Path(script.path).read_text("utf-8")
    assert where in text
    Path(script.path).write_text(text.replace(where, f"{where}    {body}\n"), "utf-8")


async def test_the_tenants_of_a_fleet_have_a_configuration_each(tmp_path: Path) -> None:
    """Files of sqlite; with the version table named, as the page does."""
    made = await asyncio.to_thread(alchemy.commands, "sqlite+aiosqlite:///unused.db", tmp_path)
    history = made.sqlalchemy_config.alembic_config

    def tenant(name: str) -> Target:
        url = f"sqlite+aiosqlite:///{tmp_path / name}.db"
        config = SQLAlchemyAsyncConfig(connection_string=url, alembic_config=history)
        return target_of(config, name=name, version_table=history.version_table_name)

    fleet = Fleet([tenant(name) for name in ("acme", "beta")], mode="migrate")
    assert (await fleet.run()).counts == {"migrated": 2}
    assert (await fleet.run()).counts == {"current": 2}
    for name in ("acme", "beta"):
        assert "authors" in shown(f"sqlite:///{tmp_path / name}.db")[0]


class TestWhatATargetIsMadeOf:
    @pytest.fixture
    def make(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
        monkeypatch.chdir(tmp_path)
        return lambda kind=SQLAlchemyAsyncConfig, **options: kind(
            **{"connection_string": "sqlite+aiosqlite:///app.db", **options}
        )

    def test_the_engine_is_the_applications_sqlite(self, make: Callable[..., Any]) -> None:
        config = make()
        assert target_of(config).database is config.get_engine()

    def test_a_bind_key_is_the_name_of_sqlite(self, make: Callable[..., Any]) -> None:
        assert target_of(make()).name == "app"
        assert target_of(make(bind_key="archive")).name == "archive"
        assert target_of(make(bind_key="archive"), name="old").name == "old"

    def test_options_are_those_of_a_target_sqlite(self, make: Callable[..., Any]) -> None:
        target = target_of(make(), revision="r1", recovery=["purge"])
        assert (target.revision, target.recovery) == ("r1", ["purge"])

    def test_a_synchronous_engine_gives_its_url_sqlite(self, make: Callable[..., Any]) -> None:
        arguments = EngineConfig(connect_args={"timeout": 3})
        url = "sqlite:///app.db"
        config = make(SQLAlchemySyncConfig, connection_string=url, engine_config=arguments)
        assert target_of(config).database == sa.make_url(url)

    def test_a_connection_that_the_url_does_not_tell_is_refused_on_a_server(
        self, make: Callable[..., Any]
    ) -> None:
        arguments = EngineConfig(connect_args={"sslmode": "verify-full"})
        url = "postgresql+psycopg://app@127.0.0.1/app"
        config = make(SQLAlchemySyncConfig, connection_string=url, engine_config=arguments)
        with pytest.raises(ConfigurationError, match="connect_args, which its URL does not tell"):
            target_of(config)
        engine = create_async_engine("postgresql+asyncpg://app@127.0.0.1/app")
        assert target_of(config, database=engine).database is engine

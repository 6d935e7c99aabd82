"""env.py runs once where its syntax proves what it does, and is asked first where it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
from sqlalchemy import make_url
from support import alembic_projects
from support.alembic_projects import heads, query, tables
from support.tenants import COUNTED

from automigrator import (
    Decision,
    Event,
    Failure,
    MigrationError,
    Migrator,
    Run,
    Target,
    TargetReport,
    hookimpl,
)

Make = Callable[..., Target]

ONLINE = """
from alembic import context
from sqlalchemy import create_engine, pool

attributes = context.config.attributes
url = attributes.get("url") or context.config.get_main_option("sqlalchemy.url")


def migrate(connection):
    context.configure(connection=connection{options})
    with context.begin_transaction():
        context.run_migrations()


{body}
"""

STOCK = """
with create_engine(url, poolclass=pool.NullPool).connect() as connection:
    migrate(connection)
"""

BROKEN = 'op.execute("select * from absent")'


class Heard:
    """A plugin that keeps the names of the events, and what a failure's run was."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.transactional: list[bool] = []

    @hookimpl
    def on_event(self, event: Event) -> None:
        self.names.append(event.name)

    @hookimpl
    def on_failure(self, run: Run, failure: Failure) -> Decision | None:
        self.transactional.append(run.transactional)
        return None


class Project:
    """An application on PostgreSQL whose env.py is known by its body, and is counted."""

    def __init__(self, root: Path, url: str) -> None:
        self.url = url.replace("+asyncpg", "+psycopg")
        made = alembic_projects.project(root, "generic", self.url, other_url=self.url)
        self.versions, self.config = made.versions, made.config
        self.env = self.versions.parent / "env.py"
        self.write()

    def write(self, body: str = STOCK, options: str = "") -> None:
        """Write env.py; `options` are further arguments of `configure`."""
        self.env.write_text(COUNTED + ONLINE.format(body=body, options=options), "utf-8")

    @property
    def ran(self) -> int:
        place = self.env.with_name("ran")
        return len(place.read_text()) if place.exists() else 0

    async def run(self, *plugins: Any, **options: Any) -> TargetReport:
        target = Target(self.url, self.config, **options)
        try:
            return (await Migrator(target, mode="migrate", plugins=plugins).run()).targets[0]
        except MigrationError as error:
            return error.report.targets[0]


@pytest.fixture
def project(tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(tmp_path, postgres_url)


def counted(target: Target) -> Path:
    env = Path(str(target.config)).parent / "migrations" / "env.py"
    env.write_text(env.read_text("utf-8") + COUNTED, "utf-8")
    return env.with_name("ran")


class TestOnce:
    @pytest.mark.parametrize("kind", ["generic", "async"])
    async def test_where_a_template_of_alembic_is_used(
        self, make_target: Make, database_url: str, kind: str
    ) -> None:
        target = make_target(kind=kind)
        ran, heard = counted(target), Heard()
        report = (await Migrator(target, mode="migrate", plugins=[heard]).run()).targets[0]
        assert (report.outcome, report.after) == ("migrated", ("r3",))
        assert report.drive is not None and report.drive.startswith("own connection (")
        assert ran.read_text() == "x"
        assert heads(database_url) == {"r3"}
        told = [name for name in heard.names if name in ("planned", "attempt-started")]
        assert told == ["planned", "attempt-started"]
        assert heard.names.index("attempt-started") < heard.names.index("revision-started")

    async def test_where_the_target_names_the_version_table(self, project: Project) -> None:
        project.write(options=", **{'version_table': 'heads'}")
        assert (await project.run(version_table="heads")).outcome == "migrated"
        assert project.ran == 1
        assert heads(project.url, "heads") == {"r3"}

    @pytest.mark.parametrize("each", [False, True])
    async def test_and_a_plugin_is_told_of_the_transactions_that_were_seen(
        self, project: Project, each: bool
    ) -> None:
        project.write(options=f", transaction_per_migration={each}")
        alembic_projects.revision(project.versions, "r4", "r3", upgrade=BROKEN)
        heard = Heard()
        report = await project.run(heard)
        assert heard.transactional == [not each]
        assert heads(project.url) == ({"r3"} if each else set())
        assert [failure.kind for failure in report.failures] == ["revision"]
        assert (report.failed_starts, project.ran) == (1, 1)


class TestAskedFirst:
    async def test_where_the_syntax_does_not_prove_it(self, project: Project) -> None:
        project.write("for each in [url]:" + indent(STOCK, "    "))
        assert (await project.run()).outcome == "migrated"
        assert project.ran == 3  # also without the lock

    async def test_even_where_the_target_names_the_version_table(self, project: Project) -> None:
        text = "for each in ('alembic_version', 'others'):" + indent(STOCK, "    ")
        project.write(text, options=", version_table=each")
        query(project.url, "create table others as select 'newer' as version_num")
        query(project.url, "create table alembic_version as select 'r1' as version_num")
        report = await project.run(version_table="alembic_version")
        assert [failure.kind for failure in report.failures] == ["ahead"]
        assert tables(project.url) == {"alembic_version", "others"}
        assert heads(project.url) == {"r1"}

    async def test_where_a_hook_acts_before(self, project: Project) -> None:
        class Before:
            @hookimpl
            def before_migrate(self, run: Run) -> None:
                assert run.transactional

        assert (await project.run(Before())).outcome == "migrated"
        assert project.ran == 2

    async def test_where_tables_are_to_be_stamped(self, project: Project) -> None:
        query(project.url, "create table users (id int primary key)")
        report = await project.run(baseline="r1", attributes={"url": "sqlite://"})
        assert [failure.kind for failure in report.failures] == ["env"]
        assert tables(project.url) == {"users"}


class TestAskedAfterAll:
    """Where env.py does something else, nothing has changed by then, and it is asked."""

    @pytest.fixture
    def heard(self) -> Heard:
        return Heard()

    @staticmethod
    def refused(report: TargetReport, heard: Heard, kind: str) -> None:
        assert [failure.kind for failure in report.failures] == [kind]
        assert (report.outcome, report.state, report.failed_starts) == ("failed", "clean", 0)
        assert "attempt-started" not in heard.names
        assert heard.names.count("planned") == 1

    async def test_another_database_is_refused_and_left_alone(
        self, project: Project, heard: Heard, empty_databases: Any
    ) -> None:
        with empty_databases.lent() as other:
            other = other.replace("+asyncpg", "+psycopg")
            report = await project.run(heard, attributes={"url": other})
            self.refused(report, heard, "env")
            assert "another database" in report.failures[0].message
            assert tables(other) == tables(project.url) == set()

    async def test_another_version_table_than_the_targets_is_refused_and_not_made(
        self, project: Project, heard: Heard
    ) -> None:
        body = STOCK.replace("poolclass", "isolation_level='AUTOCOMMIT', poolclass")
        project.write(body, options=", version_table='others'")
        report = await project.run(heard, version_table="heads")
        self.refused(report, heard, "env")
        assert "keeps the database's heads in others" in report.failures[0].message
        assert tables(project.url) == set()

    async def test_steps_of_its_own_are_refused(self, project: Project, heard: Heard) -> None:
        project.write(options=", fn=lambda heads, context: ()")
        self.refused(await project.run(heard), heard, "env")
        assert tables(project.url) == set()

    @pytest.fixture
    def led(self, project: Project) -> dict[str, Any]:
        """Options of a target whose env.py leads to another schema than its own connections."""
        query(project.url, "create schema other")
        project.write(STOCK.replace("poolclass", "isolation_level='AUTOCOMMIT', poolclass"))
        url = make_url(project.url).update_query_dict({"options": "-csearch_path=other"})
        return {"attributes": {"url": url.render_as_string(hide_password=False)}}

    async def test_newer_heads_where_it_leads_are_refused(
        self, project: Project, heard: Heard, led: dict[str, Any]
    ) -> None:
        query(project.url, "create table other.alembic_version (version_num varchar(32))")
        query(project.url, "insert into other.alembic_version values ('newer')")
        self.refused(await project.run(heard, **led), heard, "ahead")
        assert tables(project.url) == {"other.alembic_version"}

    async def test_and_are_served_where_that_is_asked_for(
        self, project: Project, led: dict[str, Any]
    ) -> None:
        query(project.url, "create table other.alembic_version (version_num varchar(32))")
        query(project.url, "insert into other.alembic_version values ('newer')")
        report = await project.run(**led, ahead="serve")
        assert (report.outcome, report.after) == ("current", ("newer",))
        assert tables(project.url) == {"other.alembic_version"}

    async def test_where_it_leads_is_migrated_as_by_plain_alembic(
        self, project: Project, heard: Heard, led: dict[str, Any]
    ) -> None:
        report = await project.run(heard, **led)
        assert (report.outcome, report.before, report.after) == ("migrated", (), ("r3",))
        assert [each.revision for each in report.applied] == ["r1", "r2", "r3"]
        assert project.ran == 3
        assert {name.partition(".")[0] for name in tables(project.url)} == {"other"}
        assert heard.names.count("attempt-started") == heard.names.count("planned") == 1

    async def test_a_connection_that_has_to_be_given_is_given(self, project: Project) -> None:
        project.write("migrate(attributes['connection'])")
        report = await project.run()
        assert (report.outcome, report.failed_starts) == ("migrated", 0)
        assert report.drive is not None and report.drive.startswith("given connection (")

    async def test_a_later_start_counts_as_before(self, project: Project) -> None:
        project.write("migrate(attributes['connection'])")
        alembic_projects.revision(project.versions, "r4", "r3", upgrade=BROKEN)
        for number in (1, 2):
            assert (await project.run()).failed_starts == number

"""A target's URL reaches env.py with its options and in the driver that is named for it.

Where plain Alembic is the measure, it is run on a database of its own.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from support import plain_alembic
from support.alembic_projects import heads, linear, project, query, revision, tables

from automigrator import ConfigurationError, MigrationError, Migrator, Target
from automigrator.report import TargetReport

pytestmark = pytest.mark.long(
    "application_name",
    "connect_timeout",
    "sslmode=disable-async",
    "names[psycopg-async",
    "names[psycopg2-async",
    "names[-async",
    "query[database",
    "words[timeout",
    "runs[psycopg-async",
    "kept[psycopg]",
    "[psycopg2-generic",
    "[asyncpg-generic",
    "names[psycopg-generic",
    "1-async]",
    "migrates[sslmode",
)

psycopg2 = pytest.mark.skipif(
    importlib.util.find_spec("psycopg2") is None, reason="psycopg2 is not installed"
)

SETTING = """
bind = op.get_bind()
bind.exec_driver_sql("create table seen (setting text, driver text)")
bind.exec_driver_sql(
    f"insert into seen select current_setting('app.x', true), '{bind.dialect.driver}'"
)
"""


def notes_the_session(folder: Path) -> None:
    revision(folder, "r1", None, upgrade=SETTING)


def two_statements(folder: Path) -> None:
    revision(folder, "r1", None, upgrade='op.execute("create table a (x int); create table b ()")')


async def run(target: Target) -> TargetReport:
    (report,) = (await Migrator(target, mode="migrate").run()).targets
    return report


def text_of(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def with_options(url: str, drivername: str, options: str) -> str:
    return text_of(make_url(url).set(drivername=drivername).update_query_string(options))


def plain(config: Path, url: str) -> None:
    """What the application's own command line does."""
    configure_url(config, url)
    plain_alembic.upgraded(config, check=True)


def configure_url(config: Path, url: str) -> None:
    lines = config.read_text("utf-8").splitlines()
    mine = f"sqlalchemy.url = {url.replace('%', '%%')}"
    kept = [mine if line.startswith("sqlalchemy.url") else line for line in lines]
    config.write_text("\n".join(kept), "utf-8")


@pytest.mark.long
@pytest.mark.parametrize("kind", ["generic", "async"])
@pytest.mark.parametrize(
    "options",
    ["sslmode=disable", "connect_timeout=20", "options=-c app.x=1", "application_name=me"],
)
async def test_a_url_with_libpqs_options_migrates(
    kind: str, options: str, postgres_url: str, tmp_path: Path
) -> None:
    made = project(tmp_path, kind, postgres_url)
    report = await run(Target(with_options(postgres_url, "postgresql", options), made.config))
    assert report.outcome == "migrated"
    assert heads(postgres_url) == {"r3"}


@pytest.mark.long
async def test_a_database_that_the_query_names_is_the_targets(
    postgres_url: str, tmp_path: Path
) -> None:
    made = project(tmp_path, "generic", postgres_url)
    url = make_url(postgres_url)
    given = url.set(drivername="postgresql", database="postgres", query={"dbname": url.database})  # type: ignore[dict-item]
    report = await run(Target(given, made.config))
    assert report.outcome == "migrated"
    assert heads(postgres_url) == {"r3"}


@pytest.mark.parametrize("options", ["ssl=disable", "timeout=20&command_timeout=20"])
async def test_a_sync_env_gets_asyncpgs_options_in_its_own_drivers_words(
    options: str, postgres_url: str, tmp_path: Path
) -> None:
    made = project(tmp_path, "generic", postgres_url, revisions=two_statements)
    url = with_options(postgres_url, "postgresql+asyncpg", options)
    report = await run(Target(url, made.config))
    assert (report.outcome, report.drive) == ("migrated", "own connection (postgresql+psycopg)")


@pytest.mark.long
@pytest.mark.parametrize("kind", ["generic", "async"])
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "asyncpg", ""])
async def test_settings_of_a_url_reach_the_session_whichever_driver_it_names(
    driver: str, kind: str, postgres_url: str, tmp_path: Path
) -> None:
    options = {
        "asyncpg": "dsn=postgresql:///?app.x%3Dvalue",
    }.get(driver, "options=-c app.x=value")
    made = project(tmp_path, kind, postgres_url, revisions=notes_the_session)
    drivername = f"postgresql+{driver}".rstrip("+")
    await run(Target(with_options(postgres_url, drivername, options), made.config))
    assert query(postgres_url, "select setting from seen") == [("value",)]


@pytest.mark.parametrize("driver", ["psycopg", pytest.param("psycopg2", marks=psycopg2)])
async def test_the_options_and_the_driver_of_the_configurations_own_url_are_kept(
    driver: str, empty_databases: Any, tmp_path: Path
) -> None:
    options = "options=-c app.x=mine"
    with empty_databases.lent() as ours, empty_databases.lent() as theirs:
        made = project(tmp_path, "generic", ours, revisions=notes_the_session)
        drivername = f"postgresql+{driver}"
        plain(made.config, with_options(theirs, drivername, options))
        configure_url(made.config, with_options(ours, drivername, options))
        report = await run(Target(ours, made.config))
        assert report.drive == f"own connection ({drivername})"
        found = query(ours, "select * from seen")
        assert found == query(theirs, "select * from seen") == [("mine", driver)]


async def test_sqlites_driver_options_of_the_configurations_own_url_are_kept(
    sqlite_url: str, tmp_path: Path
) -> None:
    body = """
    value = op.get_bind().exec_driver_sql("select '2020-01-01' as \\"x [date]\\"").scalar()
    op.execute(f"create table {type(value).__name__}_seen (x)")
    """

    def dates(folder: Path) -> None:
        revision(folder, "r1", None, upgrade=body)

    made = project(tmp_path, "generic", sqlite_url, revisions=dates)
    file = make_url(sqlite_url).database
    configure_url(made.config, f"sqlite:///{file}?detect_types=2")
    await run(Target(sqlite_url, made.config))
    assert "date_seen" in tables(sqlite_url)


@pytest.mark.long
@pytest.mark.parametrize(
    ("named", "kind", "drive"),
    [
        ("psycopg", "async", "psycopg"),
        ("psycopg", "generic", "psycopg"),
        pytest.param("psycopg2", "generic", "psycopg2", marks=psycopg2),
    ],
)
async def test_the_driver_that_the_target_names_is_the_one_that_runs(
    named: str, kind: str, drive: str, postgres_url: str, tmp_path: Path
) -> None:
    made = project(tmp_path, kind, postgres_url)
    url = make_url(postgres_url).set(drivername=f"postgresql+{named}")
    report = await run(Target(url, made.config))
    assert report.drive == f"own connection (postgresql+{drive})"


@psycopg2
async def test_psycopg2_runs_what_only_psycopg2_can(postgres_url: str, tmp_path: Path) -> None:
    body = """
    from psycopg2.extras import execute_values
    op.execute("create table t (x int)")
    driver = op.get_bind().connection.driver_connection
    execute_values(driver.cursor(), "insert into t values %s", [(1,), (2,)])
    driver.cursor().execute("do $$ begin raise notice 'here'; end $$")
    assert any("here" in notice for notice in driver.notices)
    """
    made = project(
        tmp_path, "generic", postgres_url, revisions=lambda f: revision(f, "r1", None, upgrade=body)
    )
    configure_url(made.config, "postgresql+psycopg2://me@elsewhere/other")
    report = await run(Target(postgres_url, made.config))
    assert report.drive == "own connection (postgresql+psycopg2)"
    assert query(postgres_url, "select count(*) from t") == [(2,)]


async def test_a_driver_that_is_missing_is_named_with_what_to_install(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    made = project(tmp_path, "generic", postgres_url)
    env = made.versions.parent / "env.py"
    env.write_text(f"import psycopg2\n{env.read_text('utf-8')}", "utf-8")
    with pytest.raises(MigrationError, match="pip install psycopg2-binary"):
        await run(Target(postgres_url, made.config))
    assert tables(postgres_url) == set()


async def test_an_option_that_no_way_can_be_told_is_named(
    postgres_url: str, tmp_path: Path
) -> None:
    made = project(tmp_path, "generic", postgres_url)
    url = with_options(postgres_url, "postgresql+asyncpg", "servicefile=/no/such")
    with pytest.raises(MigrationError, match="servicefile cannot be translated"):
        await run(Target(create_async_engine(url), made.config, drive="own"))


def test_an_option_that_the_driver_has_not_is_refused_at_once(
    postgres_url: str, tmp_path: Path
) -> None:
    made = project(tmp_path, "async", postgres_url)
    target = Target(with_options(postgres_url, "postgresql+asyncpg", "sslmode=x"), made.config)
    with pytest.raises(ConfigurationError, match="sslmode"):
        Migrator(target)


@pytest.mark.parametrize(
    ("driver", "arguments", "named"),
    [
        ("asyncpg", {"sslmode": "disable"}, "sslmode"),
        ("asyncpg", {"timeout": "soon"}, "TypeError"),
        ("asyncpg", {"server_settings": {"nosuch": "1"}}, "nosuch"),
        ("psycopg", {"ssl": "disable"}, '"ssl"'),
    ],
)
async def test_an_argument_that_the_driver_does_not_take_is_not_called_an_unreachable_server(
    driver: str, arguments: dict[str, Any], named: str, postgres_url: str, tmp_path: Path
) -> None:
    made = project(tmp_path, "async", postgres_url)
    url = make_url(postgres_url).set(drivername=f"postgresql+{driver}")
    engine = create_async_engine(url, connect_args=arguments)
    with pytest.raises(MigrationError, match=named) as caught:
        await run(Target(engine, made.config))
    (failure,) = caught.value.report.targets[0].failures
    assert failure.kind == "history"
    assert "connect_args" in failure.advice


@pytest.mark.parametrize("option", ["database", "dbname"])
async def test_a_rehearsal_is_not_led_to_the_real_database_by_the_query(
    option: str, postgres_url: str, make_target: Callable[..., Target]
) -> None:
    fails = """
    with op.get_context().autocommit_block():
        op.execute("create table half (x int)")
    op.execute("select 1/0")
    """

    def revisions(folder: Path) -> None:
        linear(folder, 2)
        revision(folder, "r3", "r2", upgrade=fails)

    driver = {"database": "asyncpg", "dbname": "psycopg"}[option]
    name = make_url(postgres_url).database
    assert name is not None
    url = make_url(postgres_url).set(drivername=f"postgresql+{driver}", query={option: name})
    url = url.set(database="postgres")
    first = make_target(revisions, database=postgres_url, revision="r2")
    await run(first)
    target = Target(create_async_engine(url), first.config, rehearse=True)
    with pytest.raises(MigrationError, match="division by zero"):
        await run(target)
    assert "half" not in tables(postgres_url)

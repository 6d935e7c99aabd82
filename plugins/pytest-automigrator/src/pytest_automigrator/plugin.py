"""What pytest loads: options and fixtures. All else is imported when a test uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_automigrator.settings import KINDS, OPTIONS, read

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from automigrator import Plan
    from pytest_automigrator.application import Application
    from pytest_automigrator.database import DatabaseAt
    from pytest_automigrator.databases import Databases
    from pytest_automigrator.faults.fixture import Faults

_KIND = "automigrator_kind"

FAULTS, NOTE = "automigrator_faults", "automigrator_note"
"""Properties of a test's report, through which a worker's reports come to the session's end."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    for name, (kind, about) in OPTIONS.items():
        parser.addini(f"automigrator_{name}", about, type=kind)  # type: ignore[arg-type]
    group = parser.getgroup("automigrator", "migrated databases, and tests for migrations")
    group.addoption(
        "--automigrator-database",
        choices=[*KINDS, "both"],
        help="overrides automigrator_database of the ini",
    )
    group.addoption(
        "--automigrator-postgresql",
        metavar="URL",
        help="overrides automigrator_postgresql of the ini",
    )
    group.addoption(
        "--automigrator-release",
        action="store_true",
        help="write the digests of all revisions into the lock file, and run no test",
    )
    group.addoption(
        "--automigrator-clear",
        action="store_true",
        help="remove every cached template and the cached server, and run no test",
    )
    group.addoption(
        "--automigrator-html",
        metavar="PATH",
        help="write what faults led to into an HTML file",
    )


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Do what is asked for in the place of tests."""
    names = ("release", "clear")
    asked = [name for name in names if config.getoption(f"automigrator_{name}")]
    if not asked:
        return None
    from automigrator import AutomigratorError
    from pytest_automigrator import commands
    from pytest_automigrator.cache import CacheError

    config._do_configure()
    try:
        for name in asked:
            getattr(commands, name)(read(config), print)
    except (AutomigratorError, CacheError, OSError) as error:
        raise pytest.UsageError(str(error)) from None
    finally:
        config._ensure_unconfigure()
    return 0


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Show what faults led to, all of it with `-v`, and what tests have noted."""
    tests = [each for found in terminalreporter.stats.values() for each in found]
    kept = {name: value for test in tests for name, value in _kept_by(test)}
    if FAULTS in kept:
        from pytest_automigrator.faults import summary

        reports = summary.reports_of(tests)
        terminalreporter.section("faults in migrations")
        terminalreporter.write_line(summary.shown(reports, all_of_it=config.option.verbose > 0))
        if path := config.getoption("automigrator_html"):
            summary.write(reports, Path(path))
            terminalreporter.write_line(f"written into {path}")
    if NOTE in kept:
        terminalreporter.section("notes on migrations")
        for test in tests:
            for name, value in _kept_by(test):
                if name == NOTE and test.when == "call":
                    terminalreporter.write_line(f"{test.nodeid}: {value}")


def _kept_by(test: Any) -> list[tuple[str, object]]:
    return [each for each in getattr(test, "user_properties", ()) if each[0] in (FAULTS, NOTE)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what uses a database on each kind, where there are both."""
    if _KIND in metafunc.fixturenames:
        kinds = read(metafunc.config).databases
        if len(kinds) > 1:
            metafunc.parametrize(_KIND, kinds, indirect=True, scope="session")


@pytest.fixture(scope="session")
def automigrator_options() -> dict[str, Any]:
    """Options for `automigrator.Target`, as `attributes` or `load`; override it in a conftest.py.

    They count where no `automigrator_app` names the application's own migrator.
    """
    return {}


@pytest.fixture(scope="session")
def automigrator_kind(request: pytest.FixtureRequest, automigrator_application: Application) -> str:
    """The kind of database that a test runs on: `sqlite` or `postgresql`."""
    if found := getattr(request, "param", None):
        return str(found)
    with _explained():
        return automigrator_application.databases[0]


@pytest.fixture(scope="session")
def automigrator_application(
    request: pytest.FixtureRequest, automigrator_options: dict[str, Any]
) -> Application:
    """The application under test: its history, its options, its strategies."""
    from pytest_automigrator.application import Application

    return Application(read(request.config), automigrator_options)


@pytest.fixture(scope="session")
def automigrator_databases(
    automigrator_application: Application, automigrator_kind: str
) -> Iterator[Databases]:
    """Where clones come from, for the session."""
    from pytest_automigrator.databases import Databases

    databases = Databases(automigrator_application, automigrator_kind)
    yield databases
    with _explained():
        databases.close()


@pytest.fixture(scope="session")
def automigrator_rows() -> dict[str, Any]:
    """Rows for `test_round_trip`; override it in a conftest.py.

    A mapping from a revision to the rows that are put in when a database has come to it:
    `{"abc": {"notes": [{"id": 1, "text": "one"}]}}`.
    """
    return {}


@pytest.fixture(scope="session")
def automigrator_plan(
    automigrator_databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Plan:
    """All revisions, in the order in which they run on an empty database."""
    with _explained():
        url = automigrator_databases.clone("base", tmp_path_factory.mktemp("plan"))
        plan = automigrator_databases.application.plan(url, "heads")
    automigrator_databases.drop(url)
    return plan


@pytest.fixture
def at_revision(
    automigrator_databases: Databases, tmp_path: Path
) -> Iterator[Callable[[str], DatabaseAt]]:
    """`at_revision("abc")`: a database at that revision, `base` for an empty one.

    It has `url`, `engine`, `execute`, `rows`, `contents`, `upgrade` and `downgrade`.
    """
    from pytest_automigrator.database import DatabaseAt

    made: list[tuple[DatabaseAt, URL]] = []

    def at(revision: str) -> DatabaseAt:
        with _explained():
            url = automigrator_databases.clone(revision, tmp_path)
            made.append((DatabaseAt(automigrator_databases.application, url), url))
            return made[-1][0]

    yield at
    for database, url in made:
        database.close()
        automigrator_databases.drop(url)


@pytest.fixture
def migration_faults(
    automigrator_databases: Databases,
    automigrator_plan: Plan,
    automigrator_kind: str,
    automigrator_rows: dict[str, Any],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> Faults:
    """`migration_faults("abc", "fail", "kill")`: faults at every statement, and what they led to.

    The report's `wrong` lists what ended badly. The session shows every report at its end.
    """
    from pytest_automigrator.faults.fixture import Faults
    from pytest_automigrator.seeds import seed_of

    seed = seed_of(automigrator_databases.application, automigrator_rows)
    return Faults(
        automigrator_databases,
        automigrator_plan,
        automigrator_kind,
        tmp_path,
        seed,
        record_property,
    )


@pytest.fixture
def migrated_plain_url(automigrator_databases: Databases, tmp_path: Path) -> Iterator[URL]:
    """The URL, without a driver, of a migrated database that only this test has."""
    with _explained():
        url = automigrator_databases.clone("heads", tmp_path)
    yield url
    automigrator_databases.drop(url)


@pytest.fixture
def migrated_database(migrated_plain_url: URL, pytestconfig: pytest.Config) -> URL:
    """The URL of a migrated database that only this test has, with the application's driver.

    It is the driver that `sqlalchemy.url` names, where that is for such a database; else an
    installed one. `.render_as_string(hide_password=False)` is its text.
    """
    from pytest_automigrator import drivers

    return drivers.applications(migrated_plain_url, read(pytestconfig).driver)


@pytest.fixture
def migrated_engine(migrated_plain_url: URL, pytestconfig: pytest.Config) -> Iterator[Engine]:
    """An engine for the database of `migrated_database`."""
    from sqlalchemy import create_engine

    from pytest_automigrator import drivers

    with _explained():
        engine = create_engine(drivers.sync(migrated_plain_url, read(pytestconfig).driver))
    yield engine
    engine.dispose()


@pytest.fixture
def migrated_async_engine(migrated_plain_url: URL) -> AsyncEngine:
    """An AsyncEngine for the database of `migrated_database`.

    It keeps no connection open, so any event loop may use it.
    """
    from sqlalchemy import NullPool
    from sqlalchemy.ext.asyncio import create_async_engine

    from pytest_automigrator import drivers

    return create_async_engine(drivers.asynchronous(migrated_plain_url), poolclass=NullPool)


@pytest.fixture(scope="session")
def _shared_engine(
    automigrator_databases: Databases,
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
) -> Iterator[Engine]:
    """An engine for a migrated database in which nobody commits."""
    from pytest_automigrator.transactions import engine_for

    with _explained():
        url = automigrator_databases.clone("heads", tmp_path_factory.mktemp("shared"))
        engine = engine_for(url, read(pytestconfig).driver)
    yield engine
    engine.dispose()
    automigrator_databases.drop(url)


@pytest.fixture
def migrated_connection(_shared_engine: Engine) -> Iterator[Connection]:
    """A connection in a transaction that is rolled back after the test: quicker than a clone.

    A session on it commits to a savepoint:
    `Session(migrated_connection, join_transaction_mode="create_savepoint")`.
    """
    with _shared_engine.connect() as connection:
        transaction = connection.begin()
        yield connection
        transaction.rollback()


@contextmanager
def _explained() -> Iterator[None]:
    """Context manager: fail with the text alone where the text says all."""
    from automigrator import AutomigratorError
    from pytest_automigrator.cache import CacheError
    from pytest_automigrator.drivers import DriverError
    from pytest_automigrator.server import ServerError

    try:
        yield
        return
    except (AutomigratorError, CacheError, DriverError, ServerError) as error:
        said = str(error)
    pytest.fail(said, pytrace=False)

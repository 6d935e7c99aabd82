"""Every kind of env.py brings the target's database to head, or the failure says what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from support.alembic_projects import (
    KINDS,
    POSTGRESQL_ONLY,
    Project,
    heads,
    linear,
    project,
    revision,
    tables,
    with_sync_driver,
)
from support.process_state import unchanged_process

from automigrator import MigrationError, Migrator, Report, Target

REFUSED = {
    "hardcoded_url": "connected to another database",
    "offline_only": "returned without running migrations",
    "swallows_unreachable": "returned without running migrations",
}
"""Kinds that cannot be driven to a target, with what the failure says of their env.py."""

DRIVEN = sorted(set(KINDS) - set(REFUSED))
ON_BOTH = {"async", "schemas"}
"""Kinds that the quick suite drives on PostgreSQL as well."""

pytestmark = pytest.mark.long(
    "any_driver[postgresql",
    "any_driver[sqlite-url",
    "is_used[postgresql",
    "not_changed[postgresql",
    "by_name[postgresql",
    "it_does[postgresql-offline",
    "it_does[postgresql-swallows",
    *(f"no_other[postgresql-{kind}]" for kind in DRIVEN if kind not in ON_BOTH),
)


@pytest.fixture(autouse=True)
def environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind `env_url` reads its URL here."""
    url = "sqlite_url" if "sqlite_url" in request.fixturenames else "database_url"
    monkeypatch.setenv("DATABASE_URL", with_sync_driver(request.getfixturevalue(url)))


async def run(target: Target) -> Report:
    with unchanged_process():
        return await Migrator(target, mode="migrate").run()


def documented(kind: str, url: str) -> str:
    """What the table in the docs says of a kind on the database of `url`."""
    page = Path(__file__).parents[2] / "docs" / "env-py.md"
    (row,) = [line for line in page.read_text("utf-8").splitlines() if f"| `{kind}` |" in line]
    *_, sqlite, postgresql, _ = (cell.strip() for cell in row.split("|"))
    return sqlite if make_url(url).get_backend_name() == "sqlite" else postgresql


def skip_unless_possible(kind: str, url: str) -> None:
    if kind in POSTGRESQL_ONLY and make_url(url).get_backend_name() != "postgresql":
        pytest.skip("schemas are PostgreSQL's")


def all_heads(url: str, made: Project) -> dict[str, set[str]]:
    return {table: heads(url, table) for table in made.version_tables}


@pytest.mark.long(
    "postgresql-async",
    "sqlite-version_table",
    "sqlite-cookbook]",
    "sqlite-pyproject]",
    "sqlite-swallows_connect",
    "sqlite-generic",
    "sqlite-async",
    "script_directory",
)
@pytest.mark.parametrize("kind", DRIVEN)
async def test_an_unmodified_env_brings_the_targets_database_to_head_and_no_other(
    kind: str, database_url: str, other_url: str, tmp_path: Path
) -> None:
    skip_unless_possible(kind, database_url)
    made = project(tmp_path, kind, database_url, other_url=other_url)
    target = Target(database_url, made.config, **made.options)

    report = await run(target)

    assert report.outcome == "migrated"
    assert all_heads(database_url, made) == {table: {"r3"} for table in made.version_tables}
    assert tables(database_url) == {*made.tables, *made.version_tables}
    assert tables(other_url) == set()
    (done,) = report.targets
    assert (done.before, done.after) == ((), ("r3",))
    assert dict.fromkeys(a.revision for a in done.applied) == dict.fromkeys(["r1", "r2", "r3"])
    assert done.drive == documented(kind, database_url)

    again = await run(target)

    assert again.outcome == "current"
    assert again.targets[0].applied == ()


@pytest.mark.long("[postgresql", "sqlite-hardcoded", "swallows_unreachable")
@pytest.mark.parametrize("kind", sorted(REFUSED))
async def test_an_env_that_cannot_be_driven_to_the_target_fails_with_what_it_does(
    kind: str, database_url: str, other_url: str, tmp_path: Path
) -> None:
    made = project(tmp_path, kind, database_url, other_url=other_url)
    target = Target(database_url, made.config, **made.options)

    with pytest.raises(MigrationError, match=REFUSED[kind]) as caught:
        await run(target)

    (failed,) = caught.value.report.targets
    assert failed.outcome == "failed"
    assert [(f.kind, f.state) for f in failed.failures] == [("env", "clean")]
    assert "env.py" in failed.failures[0].message
    assert documented(kind, database_url) == f"refused: {REFUSED[kind]}"
    assert tables(database_url) == set() == tables(other_url)


@pytest.mark.long("text-generic", "engine-generic", "sqlite-text-async")
@pytest.mark.parametrize("kind", ["generic", "async"])
@pytest.mark.parametrize("given", ["text", "sync text", "url", "engine"])
async def test_a_database_may_be_given_as_an_engine_or_a_url_with_any_driver(
    kind: str,
    given: str,
    database_url: str,
    other_url: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = project(tmp_path, kind, database_url, other_url=other_url)
    engine = create_async_engine(database_url)
    sync = make_url(database_url).set(drivername=make_url(database_url).get_backend_name())
    database: Any = {
        "text": database_url,
        "sync text": sync.render_as_string(hide_password=False),
        "url": make_url(database_url),
        "engine": engine,
    }[given]

    with caplog.at_level("INFO", "automigrator"):
        report = await run(Target(database, made.config))
    await engine.dispose()

    assert report.outcome == "migrated"
    assert heads(database_url) == {"r3"}
    assert tables(other_url) == set()
    noted = f"migrating with {make_url(database_url).drivername}" in caplog.text
    assert noted == (given == "sync text")


@pytest.mark.parametrize("kind", ["generic", "pyproject_async"])
async def test_a_config_object_is_used_and_not_changed(
    kind: str, database_url: str, other_url: str, tmp_path: Path
) -> None:
    project(tmp_path, kind, database_url, other_url=other_url)
    config = Config(tmp_path / "alembic.ini", toml_file=tmp_path / "pyproject.toml")
    config.attributes["mine"] = object()
    before = (config.get_main_option("sqlalchemy.url"), dict(config.attributes), config.cmd_opts)

    report = await run(Target(database_url, config))

    assert report.outcome == "migrated"
    assert heads(database_url) == {"r3"}
    assert tables(other_url) == set()
    after = (config.get_main_option("sqlalchemy.url"), dict(config.attributes), config.cmd_opts)
    assert after == before


@pytest.mark.long("sqlite-generic-given", "sqlite-async-own")
@pytest.mark.parametrize("drive", ["given", "own"])
@pytest.mark.parametrize("kind", ["generic", "async"])
async def test_a_drive_that_is_asked_for_is_the_one_that_is_used(
    drive: Any, kind: str, database_url: str, other_url: str, tmp_path: Path
) -> None:
    made = project(tmp_path, kind, database_url, other_url=other_url)

    report = await run(Target(database_url, made.config, drive=drive))

    assert report.targets[0].drive is not None
    assert report.targets[0].drive.startswith(drive)
    assert heads(database_url) == {"r3"}
    assert tables(other_url) == set()


CARELESS = """
import logging, os, signal, sys, threading
logging.getLogger().handlers.clear()
logging.getLogger().setLevel(logging.CRITICAL)
logging.getLogger("the.application").disabled = True
logging.getLogger("the.application").propagate = False
logging.config.dictConfig({"version": 1})
logging.config.fileConfig(config.config_file_name)
logging.disable(logging.WARNING)
sys.path.insert(0, "/somewhere")
os.chdir("/")
os.environ["CARELESS"] = "1"
os.environ.pop("DATABASE_URL")
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
"""
"""What an env.py may do to the process it runs in."""


@pytest.mark.long("True-given")
@pytest.mark.parametrize("drive", ["given", "own"])
@pytest.mark.parametrize("failing", [False, True])
async def test_a_careless_env_leaves_the_process_as_it_was(
    drive: Any, failing: bool, sqlite_url: str, tmp_path: Path
) -> None:
    def revisions(folder: Path) -> None:
        linear(folder)
        if failing:
            revision(folder, "r4", "r3", upgrade='raise LookupError("no luck")')

    made = project(tmp_path, "async", sqlite_url, revisions=revisions)
    env = made.versions.parent / "env.py"
    text = env.read_text("utf-8").replace("import asyncio", "import asyncio, logging.config", 1)
    found = "config = context.config\n"
    env.write_text(text.replace(found, found + CARELESS, 1), "utf-8")
    target = Target(sqlite_url, made.config, drive=drive)

    if failing:
        with pytest.raises(MigrationError, match="no luck"):
            await run(target)
    else:
        assert (await run(target)).outcome == "migrated"


@pytest.mark.long("[postgresql")
async def test_a_url_the_environment_names_may_have_an_async_driver(
    database_url: str, other_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    made = project(tmp_path, "env_url", database_url, other_url=other_url)

    report = await run(Target(database_url, made.config))

    assert report.outcome == "migrated"
    assert heads(database_url) == {"r3"}


async def test_a_url_the_environment_names_of_another_database_is_refused_by_name(
    database_url: str, other_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", with_sync_driver(other_url))
    made = project(tmp_path, "env_url", database_url)

    with pytest.raises(MigrationError, match="connected to another database") as caught:
        await run(Target(database_url, made.config))

    assert str(make_url(other_url).database) in str(caught.value)
    assert tables(database_url) == set() == tables(other_url)

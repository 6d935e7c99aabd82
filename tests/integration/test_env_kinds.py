"""Every kind of env.py brings the target's database to head, or the failure says what prevents it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from alembic_projects import (
    KINDS,
    POSTGRESQL_ONLY,
    Project,
    heads,
    project,
    tables,
    with_sync_driver,
)
from process_state import unchanged_process
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from automigrator import MigrationError, Migrator, Report, Target

REFUSED = {
    "hardcoded_url": "connected to another database",
    "offline_only": "returned without running migrations",
    "swallows_unreachable": "returned without running migrations",
}
"""Kinds that cannot be driven to a target, with what the failure says of their env.py."""

DRIVEN = sorted(set(KINDS) - set(REFUSED))


@pytest.fixture(autouse=True)
def environment(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind `env_url` reads its URL here."""
    monkeypatch.setenv("DATABASE_URL", with_sync_driver(database_url))


async def run(target: Target) -> Report:
    with unchanged_process():
        return await Migrator(target, mode="migrate").run()


def skip_unless_possible(kind: str, url: str) -> None:
    if kind in POSTGRESQL_ONLY and make_url(url).get_backend_name() != "postgresql":
        pytest.skip("schemas are PostgreSQL's")


def all_heads(url: str, made: Project) -> dict[str, set[str]]:
    return {table: heads(url, table) for table in made.version_tables}


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

    again = await run(target)

    assert again.outcome == "current"
    assert again.targets[0].applied == ()


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
    assert tables(database_url) == set() == tables(other_url)


@pytest.mark.parametrize("kind", ["generic", "async", "cookbook"])
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
    made = project(tmp_path, kind, database_url, other_url=other_url)
    config = Config(tmp_path / "alembic.ini", toml_file=tmp_path / "pyproject.toml")
    config.attributes["mine"] = object()
    before = (config.get_main_option("sqlalchemy.url"), dict(config.attributes), config.cmd_opts)

    report = await run(Target(database_url, config))

    assert report.outcome == "migrated"
    assert heads(database_url) == {"r3"}
    assert tables(other_url) == set()
    after = (config.get_main_option("sqlalchemy.url"), dict(config.attributes), config.cmd_opts)
    assert after == before


@pytest.mark.parametrize("drive", ["loop", "thread"])
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

"""Arguments of env.py's engine hold where the application's engine connects in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from support.alembic_projects import project, query, revision, tables

from automigrator import MigrationError, Migrator, Target

pytestmark = pytest.mark.long("[True--c", "well[False--ct")

POOLED = "poolclass=pool.NullPool"
ZONE, LATE = "America/New_York", "2024-07-01 12:00:00-04"


def writes(folder: Path) -> None:
    body = """
op.execute("CREATE TABLE t (at timestamptz, x text)")
op.execute("INSERT INTO t VALUES ('2024-07-01 12:00', current_setting('app.x', true))")
"""
    revision(folder, "r1", None, upgrade=body)


def target_of(engine: AsyncEngine, url: str, root: Path, arguments: str) -> Target:
    made = project(root, "async", url, revisions=writes)
    env = made.versions.parent / "env.py"
    text = env.read_text("utf-8")
    assert POOLED in text
    env.write_text(text.replace(POOLED, f"{POOLED}, connect_args={arguments}"), "utf-8")
    return Target(engine, made.config, drive="given")


def creating(url: str, **_: Any) -> AsyncEngine:
    dsn = url.replace("+asyncpg", "")
    return create_async_engine(url, async_creator=lambda **_: asyncpg.connect(dsn))


def told(url: str, **settings: str) -> AsyncEngine:
    return create_async_engine(url, connect_args={"server_settings": settings})


def written(url: str) -> Any:
    return tuple(query(url, "select at at time zone 'UTC', x from t")[0])


@pytest.mark.long("creating", "arguments1-told")
@pytest.mark.parametrize("engine", [creating, told])
@pytest.mark.parametrize(
    "arguments",
    [
        f'{{"server_settings": {{"timezone": "{ZONE}", "app.x": "it\'s %"}}}}',
        f'{{"server_settings": {{"timezone": "{ZONE}", "app.x": "it\'s %"}}, "command_timeout": 9,'
        '"timeout": 9, "statement_cache_size": 0}',
    ],
)
async def test_settings_hold_and_limits_are_no_hindrance(
    arguments: str, engine: Any, postgres_url: str, tmp_path: Path
) -> None:
    application = engine(postgres_url, timezone="Asia/Tokyo")

    await Migrator(target_of(application, postgres_url, tmp_path, arguments), mode="migrate").run()

    at, x = written(postgres_url)
    assert (at.hour, x) == (16, "it's %")


@pytest.mark.long
async def test_settings_of_the_application_hold_beside_those_of_env_py(
    postgres_url: str, tmp_path: Path
) -> None:
    application = told(postgres_url, **{"app.x": "1", "timezone": "Asia/Tokyo"})
    own = f'{{"server_settings": {{"timezone": "{ZONE}"}}}}'

    await Migrator(target_of(application, postgres_url, tmp_path, own), mode="migrate").run()

    at, x = written(postgres_url)
    assert (at.hour, x) == (16, "1")


@pytest.mark.long
@pytest.mark.parametrize(
    "options", [f"-c timezone={ZONE} --app.x=a\\\\ b", f"-ctimezone={ZONE}  -c  app.x=a\\\\ b"]
)
@pytest.mark.parametrize("creator", [True, False])
async def test_options_of_psycopg_hold_as_well(
    creator: bool, options: str, postgres_url: str, tmp_path: Path
) -> None:
    import psycopg

    url = make_url(postgres_url).set(drivername="postgresql+psycopg")
    dsn = postgres_url.replace("+asyncpg", "")
    more: dict[str, Any] = {"connect_args": {"options": "-c timezone=Asia/Tokyo"}}
    if creator:
        more = {"async_creator": lambda **_: psycopg.AsyncConnection.connect(dsn)}
    own = f'{{"options": "{options}", "connect_timeout": 9, "prepare_threshold": None}}'

    target = target_of(create_async_engine(url, **more), postgres_url, tmp_path, own)
    await Migrator(target, mode="migrate").run()

    at, x = written(postgres_url)
    assert (at.hour, x) == (16, "a b")


@pytest.mark.long("record_class")
@pytest.mark.parametrize(
    "arguments", ['{"ssl": "disable"}', '{"record_class": __import__("asyncpg").Record}']
)
async def test_what_proves_the_server_or_cannot_be_given_later_is_refused_by_name(
    arguments: str, postgres_url: str, tmp_path: Path
) -> None:
    target = target_of(creating(postgres_url), postgres_url, tmp_path, arguments)

    with pytest.raises(MigrationError, match=arguments.split('"')[1]):
        await Migrator(target, mode="migrate").run()

    assert tables(postgres_url) == set()

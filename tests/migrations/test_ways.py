"""The ways env.py is run: their order, and that looking for one changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from support import alembic_projects

from automigrator.backends.access import Access
from automigrator.backends.contract.values import Place
from automigrator.backends.registry import backend_for
from automigrator.errors import EnvError
from automigrator.migrations.config import alembic_config
from automigrator.migrations.execution import Execution, Migration
from automigrator.migrations.history import History
from automigrator.migrations.probe import probe
from automigrator.migrations.ways import Way, ways
from automigrator.target import Target

POSTGRESQL = "postgresql+asyncpg://host/database"


def target_of(root: Path, url: str, kind: str = "generic", **options: Any) -> Target:
    made = alembic_projects.project(root, kind, url)
    return Target(url, made.config, **made.options, **options)


def ways_of(
    target: Target, *, in_place: bool = False, environment: str = "", ini: Any = None
) -> list[str]:
    backend = backend_for(Access(target))
    url = backend.access.url
    place = Place(create_async_engine(url), url, in_place)
    return [str(way) for way in ways(target, backend, place, environment, ini)]


async def probed(target: Target) -> tuple[Way, Execution]:
    backend = backend_for(Access(target))
    await backend.create()
    history = History(alembic_config(target, backend.access.url))
    engine = backend.engine()
    try:
        place = Place(engine, backend.access.url, backend.in_place)
        return await probe(Migration(target, backend, history, place))
    finally:
        await backend.release(engine)


GIVEN = [
    "given connection (postgresql+asyncpg)",
    "given engine (postgresql+asyncpg)",
    "replaced connection (postgresql+asyncpg)",
]
OWN = ["own connection (postgresql+psycopg)", "own connection (postgresql+asyncpg)"]
ASYNC = "import asyncio"


@pytest.mark.parametrize(("environment", "own"), [("", OWN), (ASYNC, OWN[::-1])])
def test_a_connection_of_its_own_comes_first_with_the_driver_that_its_shape_asks_for(
    environment: str, own: list[str], tmp_path: Path
) -> None:
    target = target_of(tmp_path, POSTGRESQL)
    assert ways_of(target, environment=environment) == [*own, *GIVEN]


def test_a_driver_that_is_missing_gives_way_to_those_that_are_installed(tmp_path: Path) -> None:
    target = target_of(tmp_path, POSTGRESQL, drive="own")
    named = "postgresql+pg8000"
    assert ways_of(target, ini=make_url(f"{named}://h/db")) == [f"own connection ({named})", *OWN]


@pytest.mark.parametrize("named", ["postgresql+psycopg", "postgresql+psycopg_async"])
def test_a_driver_that_the_configuration_names_is_the_only_one(named: str, tmp_path: Path) -> None:
    target = target_of(tmp_path, POSTGRESQL, drive="own")
    found = ways_of(target, environment=ASYNC, ini=make_url(f"{named}://h/db"))
    assert found == [f"own connection ({named})"]


def test_a_sync_driver_in_an_async_env_is_a_leftover(tmp_path: Path) -> None:
    target = target_of(tmp_path, f"sqlite+aiosqlite:///{tmp_path}/app.db", drive="own")
    found = ways_of(target, environment=ASYNC, ini=make_url("sqlite:///app.db"))
    assert found[:2] == ["own connection (sqlite)", "own connection (sqlite+aiosqlite)"]


def test_a_drive_that_is_asked_for_leaves_the_others_out(tmp_path: Path) -> None:
    assert ways_of(target_of(tmp_path / "given", POSTGRESQL, drive="given")) == GIVEN
    assert ways_of(target_of(tmp_path / "own", POSTGRESQL, drive="own")) == OWN


def test_a_database_in_the_applications_own_connection_has_no_other(tmp_path: Path) -> None:
    assert ways_of(target_of(tmp_path, POSTGRESQL), in_place=True) == GIVEN


@pytest.mark.parametrize(
    ("kind", "driver"),
    [
        ("generic", "sqlite+pysqlite"),
        ("async", "sqlite+aiosqlite"),
        ("cookbook", "sqlite+pysqlite"),
        ("engine_attribute", "sqlite+pysqlite"),
        ("create_task", "sqlite+aiosqlite"),
    ],
)
async def test_looking_for_a_way_finds_what_is_pending_and_changes_nothing(
    kind: str, driver: str, tmp_path: Path, sqlite_url: str
) -> None:
    found, execution = await probed(target_of(tmp_path, sqlite_url, kind))

    (context,) = execution.contexts
    assert (found.how, context.driver) == ("own connection", driver)
    assert (context.heads, context.pending, context.wanted) == ((), ("r1", "r2", "r3"), ("r3",))
    assert execution.done == {}
    assert alembic_projects.tables(sqlite_url) == set()


@pytest.mark.long("swallows_unreachable", "hardcoded")
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("offline_only", "returned without running migrations"),
        ("swallows_unreachable", "returned without running migrations"),
        ("hardcoded_url", "connected to another database"),
    ],
)
async def test_an_env_that_no_way_leads_to_the_target_is_told_with_what_each_way_met(
    kind: str, why: str, tmp_path: Path, sqlite_url: str
) -> None:
    target = target_of(tmp_path, sqlite_url, kind)

    with pytest.raises(EnvError, match=why) as caught:
        await probed(target)

    for way in ("own connection", "given connection", "given engine", "replaced connection"):
        assert way in str(caught.value)
    assert alembic_projects.tables(sqlite_url) == set()

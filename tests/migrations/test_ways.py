"""The ways env.py is run: their order, and that looking for one changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from support import alembic_projects

from automigrator.backends.access import Access
from automigrator.backends.contract.values import Place
from automigrator.backends.registry import backend_for
from automigrator.errors import EnvError
from automigrator.migrations.config import alembic_config
from automigrator.migrations.environment import Execution, Migration
from automigrator.migrations.history import History
from automigrator.migrations.probe import probe
from automigrator.migrations.ways import Way, ways
from automigrator.target import Target

POSTGRESQL = "postgresql+asyncpg://host/database"


def target_of(root: Path, url: str, kind: str = "generic", **options: Any) -> Target:
    made = alembic_projects.project(root, kind, url)
    return Target(url, made.config, **made.options, **options)


def ways_of(target: Target, *, in_place: bool = False) -> list[str]:
    access = Access(target)
    place = Place(create_async_engine(access.url), access.url, in_place)
    return [str(way) for way in ways(target, place)]


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


LOOP = ["loop (offering connection)", "loop (offering engine)", "loop (offering nothing)"]


def test_the_loop_comes_first_and_a_sync_driver_before_the_async_one(
    tmp_path: Path, sqlite_url: str
) -> None:
    target = target_of(tmp_path, sqlite_url)

    assert ways_of(target) == [*LOOP, "thread (sqlite+pysqlite)", "thread (sqlite+aiosqlite)"]


def test_a_drive_that_is_asked_for_leaves_the_others_out(tmp_path: Path) -> None:
    loop = target_of(tmp_path / "loop", POSTGRESQL, drive="loop")
    thread = target_of(tmp_path / "thread", POSTGRESQL, drive="thread")

    assert ways_of(loop) == LOOP
    assert ways_of(thread) == ["thread (postgresql+psycopg)", "thread (postgresql+asyncpg)"]


def test_a_database_in_the_applications_own_connection_is_never_left_for_a_thread(
    tmp_path: Path, sqlite_url: str
) -> None:
    assert ways_of(target_of(tmp_path, sqlite_url), in_place=True) == LOOP


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        ("generic", LOOP[0]),
        ("async", LOOP[0]),
        ("cookbook", LOOP[0]),
        ("engine_attribute", LOOP[1]),
        ("create_task", LOOP[0]),
    ],
)
async def test_looking_for_a_way_finds_what_is_pending_and_changes_nothing(
    kind: str, way: str, tmp_path: Path, sqlite_url: str
) -> None:
    found, execution = await probed(target_of(tmp_path, sqlite_url, kind))

    assert str(found) == way
    (context,) = execution.contexts
    assert (context.heads, context.pending, context.wanted) == ((), ("r1", "r2", "r3"), ("r3",))
    assert execution.done == []
    assert alembic_projects.tables(sqlite_url) == set()


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

    assert [way for way in ways_of(target) if way not in str(caught.value)] == []
    assert alembic_projects.tables(sqlite_url) == set()

"""A revision that does not exist: whoever asks for one learns that, and which ones are similar."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from support.alembic_projects import linear, tables
from support.leaders import leading

from automigrator import MigrationError, Migrator, Target

pytestmark = pytest.mark.long("postgresql")

WRONG = {"revision": "r33"}


async def run(target: Target) -> str:
    with pytest.raises(MigrationError) as raised:
        await Migrator(target._replace(**WRONG), mode="migrate").run()
    return str(raised.value)


async def check(target: Target) -> str:
    return str((await Migrator(target._replace(**WRONG)).check())[target.name])


async def plan(target: Target) -> str:
    with pytest.raises(Exception, match="r33") as raised:
        await Migrator(target._replace(**WRONG)).plan()
    return f"{raised.value} {getattr(raised.value, 'advice', '')}"


async def rollback(target: Target, revision: str = "r33") -> str:
    with pytest.raises(MigrationError) as raised:
        await Migrator(target).rollback(revision)
    return str(raised.value)


@pytest.mark.parametrize("ask", [run, check, plan, rollback])
async def test_similar_ones_are_named_and_the_files_are_not_blamed(
    make_target: Callable[..., Target], database_url: str, ask: Callable[[Target], Awaitable[str]]
) -> None:
    target = make_target()
    await Migrator(target, mode="migrate").run()
    said = await ask(target)
    assert "this history has no revision 'r33'; similar: r3" in said
    assert "correct the revision that was asked for" in said
    assert "repair the revision files" not in said


@pytest.mark.parametrize(
    ("revision", "told"),
    [
        ("zzzz", "no revision 'zzzz'; its newest revision is r3"),
        ("-7", "-7 goes back 7 revisions, and a database at r3 has only 3"),
    ],
)
async def test_where_none_is_similar_the_newest_is_named(
    make_target: Callable[..., Target], database_url: str, revision: str, told: str
) -> None:
    target = make_target()
    await Migrator(target, mode="migrate").run()
    assert told in await rollback(target, revision)


@pytest.mark.parametrize(
    ("revision", "told"),
    [
        ("-2", "-2 goes back 2 revisions, and a database at r1 has only 1"),
        ("r3", "a rollback only goes back, and r3 is not among what a database at r1 has"),
    ],
)
async def test_a_rollback_that_the_database_is_too_old_for_says_what_it_has(
    make_target: Callable[..., Target], database_url: str, revision: str, told: str
) -> None:
    target = make_target()
    await Migrator(target._replace(revision="r1"), mode="migrate").run()
    said = await rollback(target, revision)
    assert told in said and "base to undo every one" in said


@pytest.mark.parametrize("revision", ["r33", "r33-1", "-7"])
async def test_a_rollback_does_not_wait_for_the_lock_to_find_out(
    make_target: Callable[..., Target], database_url: str, versions: Path, revision: str
) -> None:
    target = make_target()
    await Migrator(target, mode="migrate").run()
    linear(versions, 4)
    async with leading(target), asyncio.timeout(30):
        said = await rollback(target, revision)
    assert "history: " in said


async def test_one_that_waits_in_vain_names_the_lock_as_the_cause(
    make_target: Callable[..., Target], database_url: str, versions: Path
) -> None:
    target = make_target()
    await Migrator(target, mode="migrate").run()
    linear(versions, 4)
    async with leading(target):
        with pytest.raises(MigrationError, match="was still held by") as raised:
            await Migrator(target._replace(lock_timeout=0.2)).rollback("r1")
    (failure,) = raised.value.report.targets[0].failures
    assert failure.kind == "lock-timeout" and "who holds the lock" in failure.advice


@pytest.mark.parametrize("source", ["baseline", "bootstrap"])
async def test_what_a_target_stamps_is_no_exception(
    make_target: Callable[..., Target], database_url: str, source: str
) -> None:
    given: dict[str, Any] = {source: "r33" if source == "baseline" else lambda _: "r33"}
    if source == "baseline":
        engine = create_async_engine(database_url)
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE adopted (id INTEGER)"))
        await engine.dispose()
    with pytest.raises(
        MigrationError, match=f"{source}: this history has no revision 'r33'; similar: r3"
    ):
        await Migrator(make_target(**given), mode="migrate").run()
    assert tables(database_url) <= {"adopted"}

"""A start that creates a database and is refused before it changes anything leaves none behind."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from support.alembic_projects import tables
from support.postgres_server import Server

from automigrator import (
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

ELSEWHERE = """
from alembic import context
from sqlalchemy import create_engine

with create_engine("sqlite://").connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""


@pytest.fixture
def live(tmp_path: Path) -> Path:
    return tmp_path / "data" / "app.db"


@pytest.fixture
def refused(make_target: Make, live: Path, tmp_path: Path) -> Target:
    """A target whose database is absent, and whose env.py leads elsewhere."""
    target = make_target(database=f"sqlite+aiosqlite:///{live}")
    (tmp_path / "migrations" / "env.py").write_text(ELSEWHERE, "utf-8")
    return target


def beside(live: Path) -> list[str]:
    """What is in the database's folder."""
    return sorted(each.name for each in live.parent.iterdir())


def touch(live: Path) -> None:
    live.parent.mkdir()
    live.touch()


async def ended(target: Target, *plugins: object) -> TargetReport:
    with pytest.raises(MigrationError) as raised:
        await Migrator(target, mode="migrate", plugins=plugins).run()
    return raised.value.report.targets[0]


async def test_neither_the_file_nor_its_lock_stays(refused: Target, live: Path) -> None:
    report = await ended(refused)
    assert [each.kind for each in report.failures] == ["env"]
    assert beside(live) == [] and not report.notes


async def test_nor_does_what_is_declared_of_it(
    make_target: Make, refused: Target, live: Path
) -> None:
    report = await ended(Target(refused.database, refused.config, name="data", version="2.0"))
    assert [each.kind for each in report.failures] == ["env"]
    assert beside(live) == [] and not report.notes


async def test_nor_do_they_where_its_steps_are_not_alembics(refused: Target, live: Path) -> None:
    env = Path(str(refused.config)).parent / "migrations" / "env.py"
    text = ELSEWHERE.replace("=connection)", "=connection, fn=lambda heads, context: ())")
    env.write_text(text.replace('"sqlite://"', f'"sqlite:///{live}"'), "utf-8")
    report = await ended(refused)
    assert [each.kind for each in report.failures] == ["env"]
    assert beside(live) == [] and not report.notes


async def test_nor_do_they_after_a_mistyped_revision(make_target: Make, live: Path) -> None:
    report = await ended(make_target(database=f"sqlite+aiosqlite:///{live}", revision="r33"))
    assert [each.kind for each in report.failures] == ["history"]
    assert beside(live) == []


async def test_what_was_there_before_stays(refused: Target, live: Path) -> None:
    touch(live)
    report = await ended(refused)
    assert beside(live)[0] == "app.db" and not report.notes


async def test_what_somebody_has_written_stays_and_that_is_told(
    refused: Target, live: Path
) -> None:
    class Writes:
        @hookimpl
        def on_failure(self, run: Run, failure: Failure) -> None:
            with closing(sqlite3.connect(live)) as diary:
                diary.execute("CREATE TABLE diary (day TEXT)")

    report = await ended(refused, Writes())
    assert tables(f"sqlite:///{live}") == {"diary"}
    assert report.notes == (
        "the database that this start created stays; nothing was migrated in it",
    )


async def test_another_file_under_its_name_stays(refused: Target, live: Path) -> None:
    class Replaces:
        @hookimpl
        def on_failure(self, run: Run, failure: Failure) -> None:
            other = live.with_suffix(".other")
            other.touch()
            other.replace(live)

    await ended(refused, Replaces())
    assert beside(live)[0] == "app.db"


@asynccontextmanager
async def failing_leader(refused: Target) -> AsyncIterator[object]:
    """Context manager: a leader has failed, and holds the lock until the plugin's run waits."""
    held, waits = asyncio.Event(), asyncio.Event()

    class Holds:
        @hookimpl
        async def on_failure(self, run: Run, failure: Failure) -> None:
            held.set()
            await waits.wait()

    class Waits:
        @hookimpl
        def on_event(self, event: Event) -> None:
            if event.name == "waiting":
                waits.set()

    leader = asyncio.create_task(ended(refused, Holds()))
    await held.wait()
    yield Waits()
    assert [each.kind for each in (await leader).failures] == ["env"]


async def test_a_follower_finds_none_and_ends_as_its_leader(refused: Target, live: Path) -> None:
    async with failing_leader(refused) as waits:
        follower = await ended(refused, waits)
    assert [each.kind for each in follower.failures] == ["env"]
    assert beside(live) == []


async def test_a_follower_with_another_env_py_creates_it_anew(
    refused: Target, live: Path, make_target: Make
) -> None:
    async with failing_leader(refused) as waits:
        other = make_target(database=f"sqlite+aiosqlite:///{live}", folder="other")
        report = await Migrator(other, mode="migrate", plugins=[waits]).run()
    assert report.outcome == "migrated"
    assert "users" in tables(f"sqlite:///{live}")


@pytest.mark.long
async def test_on_postgresql_it_stays_and_that_is_told(
    make_target: Make, postgres_server: Server, tmp_path: Path
) -> None:
    name = "undone_creation"
    target = make_target(database=postgres_server.url(name))
    (tmp_path / "migrations" / "env.py").write_text(ELSEWHERE, "utf-8")
    try:
        report = await ended(target)
    finally:
        postgres_server.drop_all(name)
    assert report.notes[-1].startswith("the database that this start created stays")

"""run() migrates only when it is asked to: `mode=`, else `RUN_MIGRATIONS`, else not."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from support.alembic_projects import heads, tables

from automigrator import (
    ConfigurationError,
    FollowTimeoutError,
    MigrationError,
    Migrator,
    PendingError,
    Target,
)

pytestmark = pytest.mark.long("postgresql")

Make = Callable[..., Target]


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUN_MIGRATIONS", raising=False)


@pytest.mark.parametrize("value", [None, "", "0", "false", "no", "off", " Off "])
async def test_an_unasked_run_does_nothing_and_says_once_how_to_ask(
    value: str | None,
    make_target: Make,
    sqlite_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if value is not None:
        monkeypatch.setenv("RUN_MIGRATIONS", value)

    report = await Migrator(make_target(database=sqlite_url)).run()

    assert report.outcome == "skipped"
    assert report.targets == ()
    assert tables(sqlite_url) == set()
    warnings = [r for r in caplog.records if r.name.startswith("automigrator")]
    assert [r.levelno for r in warnings] == [logging.WARNING]
    assert "RUN_MIGRATIONS=1" in warnings[0].getMessage()
    assert "mode='migrate'" in warnings[0].getMessage()


@pytest.mark.long("[true]", "[yes]", "[on]")
@pytest.mark.parametrize("value", ["1", "true", "yes", "on", " TRUE "])
async def test_the_environment_may_ask_for_a_migration(
    value: str, make_target: Make, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUN_MIGRATIONS", value)

    report = await Migrator(make_target(database=sqlite_url)).run()

    assert report.outcome == "migrated"
    assert heads(sqlite_url) == {"r3"}


async def test_the_environment_is_read_when_the_run_begins(
    make_target: Make, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrator = Migrator(make_target(database=sqlite_url))
    monkeypatch.setenv("RUN_MIGRATIONS", "1")

    assert (await migrator.run()).outcome == "migrated"


@pytest.mark.parametrize(("mode", "outcome"), [("migrate", "migrated"), ("skip", "skipped")])
async def test_a_mode_outweighs_the_environment(
    mode: Any,
    outcome: str,
    make_target: Make,
    sqlite_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RUN_MIGRATIONS", "check")

    assert (await Migrator(make_target(database=sqlite_url), mode=mode).run()).outcome == outcome


@pytest.mark.parametrize("value", ["2", "ture", "migrate"])
async def test_a_value_that_is_not_understood_is_an_error_that_lists_the_values(
    value: str, make_target: Make, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUN_MIGRATIONS", value)

    with pytest.raises(ConfigurationError) as caught:
        await Migrator(make_target(database=sqlite_url)).run()

    for word in (value, "1/true/yes/on", "0/false/no/off", "check", "wait"):
        assert word in str(caught.value)
    assert tables(sqlite_url) == set()


def test_a_mode_that_is_not_understood_is_refused_at_once(
    make_target: Make, sqlite_url: str
) -> None:
    with pytest.raises(ConfigurationError, match="'migrate', 'check', 'wait', 'skip'"):
        Migrator(make_target(database=sqlite_url), mode="go")  # type: ignore[arg-type]  # wrong


@pytest.mark.parametrize("by", ["mode", "environment"])
async def test_a_check_raises_while_anything_is_pending_and_then_lets_start(
    by: str, make_target: Make, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by == "environment":
        monkeypatch.setenv("RUN_MIGRATIONS", "check")
    target = make_target()
    migrator = Migrator(target, mode="check" if by == "mode" else None)

    with pytest.raises(PendingError) as caught:
        await migrator.run()

    assert caught.value.status.targets[0].pending == ("r1", "r2", "r3")
    assert "r3" in str(caught.value)
    assert tables(database_url) == set()

    await Migrator(target, mode="migrate").run()

    assert (await migrator.run()).outcome == "current"


async def test_a_follower_returns_when_a_leader_has_migrated(
    make_target: Make, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUN_MIGRATIONS", "wait")
    target = make_target()
    following = asyncio.create_task(Migrator(target).run())
    await asyncio.sleep(0.1)
    assert not following.done()

    await Migrator(target, mode="migrate").run()

    report = await asyncio.wait_for(following, 5)
    assert report.outcome == "current"
    assert report.targets[0].after == ("r3",)


async def test_a_follower_gives_up_at_its_limit_and_has_changed_nothing(
    make_target: Make, database_url: str
) -> None:
    target = make_target(lock_timeout=0.3)
    began = time.monotonic()

    with pytest.raises(FollowTimeoutError, match=r"0\.3 s") as caught:
        await Migrator(target, mode="wait").run()

    assert 0.3 <= time.monotonic() - began < 2
    assert caught.value.status.targets[0].pending == ("r1", "r2", "r3")
    assert tables(database_url) == set()


async def test_the_lifespan_is_governed_by_the_gate_too(make_target: Make, sqlite_url: str) -> None:
    async with Migrator(make_target(database=sqlite_url)).lifespan(FastAPI()):
        assert tables(sqlite_url) == set()


async def test_a_rollback_is_explicit_already(make_target: Make, database_url: str) -> None:
    target = make_target()
    await Migrator(target, mode="migrate").run()

    report = await Migrator(target).rollback("r1")

    (undone,) = report
    assert (undone.before, undone.after) == (("r3",), ("r1",))
    assert (report.outcome, undone.applied) == ("reverted", ())
    assert [each.revision for each in undone.reverted] == ["r3", "r2"]
    assert str(report).startswith("rollback: reverted in ")
    assert "reverted r3 in" in str(report) and "applied" not in str(report)
    assert report.to_dict()["rollback"] is True
    assert heads(database_url) == {"r1"}
    assert tables(database_url) == {"users", "alembic_version"}
    again = await Migrator(target).rollback("r1")
    assert again.outcome == "current"


@pytest.mark.long("sqlite-async", "ignores_connection", "sqlite-per_migration")
@pytest.mark.parametrize("kind", ["generic", "async", "ignores_connection", "per_migration"])
async def test_a_rollback_that_fails_keeps_what_it_can_and_says_where_it_stands(
    kind: str, make_target: Make, database_url: str, versions: Any
) -> None:
    target = make_target(kind=kind)
    await Migrator(target, mode="migrate").run()
    text = (versions / "r2_.py").read_text("utf-8")
    (versions / "r2_.py").write_text(text.replace('op.drop_table("posts")', 'op.execute("no")'))

    with pytest.raises(MigrationError) as caught:
        await Migrator(target).rollback("base")

    (failed,) = caught.value.report.targets
    (failure,) = failed.failures
    assert (failure.kind, failure.revision) == ("revision", "r2")
    expected = "r2" if kind == "per_migration" else "r3"
    assert heads(database_url) == {expected}
    assert failed.after == (expected,)
    assert failure.state == ("partial-at-boundary" if expected == "r2" else "clean")
    assert [a.revision for a in failed.reverted] == (["r3"] if expected == "r2" else [])

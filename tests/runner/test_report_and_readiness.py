"""The application asks afterwards: the last run's report, and whether it may serve."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from support.alembic_projects import linear, revision, tables

from automigrator import (
    ConfigurationError,
    FollowTimeoutError,
    MigrationError,
    Migrator,
    PendingError,
    PluginError,
    Run,
    Target,
    TargetReport,
)

pytestmark = pytest.mark.long("postgresql")

Make = Callable[..., Target]


def failing(folder: Path) -> None:
    linear(folder, 1)
    revision(folder, "r2", "r1", upgrade='raise LookupError("no luck")')


@pytest.fixture
def target(make_target: Make, sqlite_url: str) -> Target:
    return make_target(database=sqlite_url, name="app")


@pytest.fixture
def bad(make_target: Make, sqlite_url: str) -> Target:
    return make_target(failing, database=f"{sqlite_url}-bad", folder="bad", name="bad")


class TestReport:
    async def test_there_is_none_before_the_first_run_has_ended(self, target: Target) -> None:
        assert Migrator(target).report is None

    async def test_it_is_what_the_last_run_returned(self, target: Target) -> None:
        migrator = Migrator(target, mode="migrate")
        assert await migrator.run() is migrator.report
        again = await migrator.run()
        assert again is migrator.report and again.outcome == "current"

    async def test_a_lifespan_leaves_it_too(self, target: Target) -> None:
        migrator = Migrator(target, mode="migrate")
        async with migrator.lifespan(FastAPI()):
            assert migrator.report is not None and migrator.report["app"].outcome == "migrated"

    async def test_it_is_that_of_the_error_where_a_target_failed(
        self, bad: Target, target: Target
    ) -> None:
        migrator = Migrator(bad, target, mode="migrate")
        with pytest.raises(MigrationError) as caught:
            await migrator.run()
        assert caught.value.report is migrator.report
        assert [each.outcome for each in migrator.report] == ["failed", "not-run"]

    async def test_a_run_that_is_cancelled_says_how_far_each_target_came(
        self, target: Target, bad: Target, sqlite_url: str
    ) -> None:
        class Stopping(Migrator):
            async def migrate_target(self, run: Run) -> TargetReport:
                if run.name == "bad":
                    raise asyncio.CancelledError
                return await super().migrate_target(run)

        migrator = Stopping(target, bad, mode="migrate")
        with pytest.raises(asyncio.CancelledError):
            await migrator.run()

        assert migrator.report is not None
        assert [each.outcome for each in migrator.report] == ["migrated", "cancelled"]
        assert str(migrator.report).startswith("migration run: cancelled in ")

    @pytest.mark.parametrize(("mode", "error"), [("check", PendingError), ("wait", None)])
    async def test_a_run_that_only_looked_says_what_is_pending(
        self, make_target: Make, sqlite_url: str, mode: Any, error: Any
    ) -> None:
        target = make_target(database=sqlite_url, lock_timeout=0.1)
        migrator = Migrator(target, mode=mode)
        with pytest.raises(error or FollowTimeoutError):
            await migrator.run()
        assert migrator.report is not None and migrator.report.outcome == "not-run"
        assert not migrator.ready

    async def test_a_wrong_configuration_is_its_reason(self, target: Target) -> None:
        migrator = Migrator(target, mode="migrate", recovery=["absent"])
        with pytest.raises(PluginError):
            await migrator.run()
        assert migrator.report is not None and "absent" in migrator.report.reason
        assert migrator.report.outcome == "failed"


class TestMode:
    async def test_a_mode_of_one_run_overrides_the_migrators(
        self, target: Target, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("RUN_MIGRATIONS", raising=False)
        migrator = Migrator(target)
        with pytest.raises(PendingError):
            await migrator.run(mode="check")
        assert tables(sqlite_url) == set()
        assert (await migrator.run(mode="migrate")).outcome == "migrated"
        assert (await migrator.run()).outcome == "skipped"
        assert (await Migrator(target, mode="migrate").run(mode="skip")).outcome == "skipped"

    def test_without_a_loop_too(self, target: Target) -> None:
        assert Migrator(target, mode="skip").run_sync(mode="migrate").outcome == "migrated"

    async def test_it_overrides_a_gate_of_a_subclass(self, target: Target) -> None:
        class Closed(Migrator):
            def is_enabled(self) -> bool:
                return False

        assert (await Closed(target).run(mode="migrate")).outcome == "migrated"

    async def test_another_word_is_refused(self, target: Target) -> None:
        with pytest.raises(ConfigurationError, match="mode='yes' is not one of 'migrate'"):
            await Migrator(target).run(mode="yes")  # type: ignore[arg-type]


class TestReadiness:
    async def test_an_application_may_serve_once_a_run_has_ended_well(self, target: Target) -> None:
        migrator = Migrator(target, mode="migrate")
        before = await migrator.readiness()
        assert (migrator.ready, bool(before), before.outcome) == (False, False, None)

        await migrator.run()

        after = await migrator.readiness()
        assert migrator.ready and after and str(after) == "ready: the last run ended: migrated"
        assert json.loads(json.dumps(after.to_dict()))["targets"] == {"app": "migrated"}

    async def test_a_failure_is_not_told_to_whoever_asks(self, bad: Target) -> None:
        migrator = Migrator(bad, mode="migrate")
        with pytest.raises(MigrationError):
            await migrator.run()
        answer = await migrator.readiness()
        assert not answer and answer.to_dict()["targets"] == {"bad": "failed"}
        assert "luck" not in repr(answer) and "sqlite" not in repr(answer)

    async def test_one_that_the_gate_skipped_or_that_goes_on_degraded_is_ready(
        self, bad: Target
    ) -> None:
        for options in ({"mode": "skip"}, {"mode": "migrate", "recovery": ["log-and-continue"]}):
            migrator = Migrator(bad, **options)  # type: ignore[arg-type]
            await migrator.run()
            assert migrator.ready

    async def test_a_look_asks_the_databases(self, make_target: Make, database_url: str) -> None:
        migrator = Migrator(make_target(name="app"), mode="skip")
        await migrator.run()

        pending = await migrator.readiness(look=True)
        assert not pending and str(pending).endswith("the code expects: app")
        await migrator.run(mode="migrate")
        assert await migrator.readiness(look=True)

    async def test_a_look_that_fails_is_an_answer(self, make_target: Make) -> None:
        away = make_target(database="postgresql+asyncpg://nobody:sesame@127.0.0.1:1/absent")
        answer = await Migrator(away).readiness(look=True, limit=0.5)
        assert not answer and "sesame" not in repr(answer)

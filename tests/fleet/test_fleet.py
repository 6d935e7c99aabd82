"""A run of a fleet on real tenants: what becomes of each, and of the next run."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import fleets
from support.alembic_projects import heads, tables
from support.fleets import outcomes

from automigrator import ConfigurationError, Decision, Migrator, PendingError, hookimpl
from automigrator.fleet import Fleet, FleetError, files, schemas
from automigrator.fleet.executors.local import Local
from automigrator.fleet.fleet import MigratorOptions


def heads_of(folder: Path, name: str) -> set[str]:
    return heads(f"sqlite+aiosqlite:///{folder / name}.db")


async def test_every_tenant_comes_to_head(fleet_of: Callable[..., Fleet], folder: Path) -> None:
    fleet = fleet_of("a", "b", "c")
    report = await fleet.run()
    assert outcomes(report) == dict.fromkeys("abc", "migrated")
    assert [heads_of(folder, name) for name in "abc"] == [{"r3"}] * 3
    assert (report["a"].applied, report["a"].after) == (3, ("r3",))
    assert (await fleet.run()).counts == {"current": 3}


async def test_one_that_fails_stops_neither_the_others_nor_the_service(
    fleet_of: Callable[..., Fleet], folder: Path
) -> None:
    fleet = fleet_of("a", "b", "c")
    fleets.spoil(folder / "b.db")
    report = await fleet.run()
    assert outcomes(report) == {"a": "migrated", "b": "failed", "c": "migrated"}
    failure = report["b"].failure
    assert failure is not None and (failure["kind"], failure["revision"]) == ("revision", "r2")
    assert "b: revision in revision r2" in str(report) and "what to do" in str(report)
    assert fleet.report is report


class TestQuarantine:
    async def test_a_failed_tenant_is_not_tried_again_until_it_is_retried(
        self, fleet_of: Callable[..., Fleet], folder: Path
    ) -> None:
        fleet = fleet_of("a", "b")
        fleets.spoil(folder / "b.db")
        await fleet.run()
        fleets.mend(folder / "b.db")
        report = await fleet.run()
        assert outcomes(report) == {"a": "current", "b": "quarantined"}
        assert "revision in revision r2" in report["b"].notes[0]
        assert await fleet.retry("b") == ("b",)
        assert outcomes(await fleet.run()) == {"a": "current", "b": "migrated"}

    async def test_new_files_end_it(
        self, fleet_of: Callable[..., Fleet], folder: Path, ini: Path
    ) -> None:
        fleet = fleet_of("b")
        fleets.spoil(folder / "b.db")
        await fleet.run()
        fleets.mend(folder / "b.db")
        fleets.deploy(ini, "r4", "r3")
        assert outcomes(await fleet.run()) == {"b": "migrated"}

    async def test_one_that_somebody_has_brought_to_head_is_current(
        self, fleet_of: Callable[..., Fleet], folder: Path, ini: Path
    ) -> None:
        fleet = fleet_of("b")
        fleets.spoil(folder / "b.db")
        await fleet.run()
        fleets.mend(folder / "b.db")
        (tenant,) = [each async for each in files(folder, ini)]
        await Migrator(tenant.target, mode="migrate").run()  # type: ignore[union-attr]
        assert outcomes(await fleet.run()) == {"b": "current"}

    async def test_an_operators_order_holds_whatever_the_files_are(
        self, fleet_of: Callable[..., Fleet], folder: Path, ini: Path
    ) -> None:
        fleet = fleet_of("a", "b")
        await fleet.quarantine("b")
        assert outcomes(await fleet.run()) == {"a": "migrated", "b": "quarantined"}
        fleets.deploy(ini, "r4", "r3")
        report = await fleet.run()
        assert outcomes(report)["b"] == "quarantined" and heads_of(folder, "b") == set()
        assert report["b"].notes == ("in quarantine: ordered by an operator",)
        await fleet.retry()
        assert outcomes(await fleet.run()) == {"a": "current", "b": "migrated"}

    async def test_a_server_that_is_away_puts_nobody_there(self, ini: Path) -> None:
        from automigrator import Target, Timeouts

        target = Target("postgresql+asyncpg://u:p@127.0.0.1:1/a", ini, create=False)
        fleet = Fleet([target], mode="migrate", timeouts=Timeouts(connect=0.1))
        for _ in range(2):
            report = await fleet.run()
            failure = report["a"].failure
            assert failure is not None and failure["kind"] == "unreachable"

    async def test_a_name_that_no_tenant_has_is_refused(
        self, fleet_of: Callable[..., Fleet]
    ) -> None:
        fleet = fleet_of("a")
        for act in (fleet.retry, fleet.quarantine):
            with pytest.raises(ConfigurationError):
                await act("../nobody")


async def test_too_many_failures_raise_with_the_report(
    fleet_of: Callable[..., Fleet], folder: Path
) -> None:
    fleet = fleet_of("a", "b", "c", max_failures=0, concurrency=1)
    fleets.spoil(folder / "a.db")
    with pytest.raises(FleetError, match="max_failures lets 0 fail") as caught:
        await fleet.run()
    assert outcomes(caught.value.report) == {"a": "failed", "b": "not-run", "c": "not-run"}
    assert fleet.report is caught.value.report and heads_of(folder, "b") == set()


async def test_a_rollout_that_a_canary_ended_stays_so_and_those_at_head_are_served(
    fleet_of: Callable[..., Fleet], folder: Path, control: str, ini: Path
) -> None:
    await fleet_of("done").run()
    fleets.spoil(with_one(folder, "a"))
    for _ in range(3):  # starts of the service
        fleet = fleet_of("b", "c", canary=1, control=control)
        with pytest.raises(FleetError, match="group 'canary' failed"):
            await fleet.run()
        assert heads_of(folder, "b") == heads_of(folder, "c") == set()
        assert fleet.ready("done") and not fleet.ready("b")
    fleets.mend(folder / "a.db")
    await fleet.retry("a")
    assert (await fleet.run()).at_head


async def test_a_quarantine_that_was_ordered_is_no_failed_canary(
    fleet_of: Callable[..., Fleet],
) -> None:
    fleet = fleet_of("a", "b", canary=["a"])
    await fleet.quarantine("a")
    assert outcomes(await fleet.run()) == {"a": "quarantined", "b": "migrated"}


def with_one(folder: Path, name: str) -> Path:
    fleets.with_files(folder, [name])
    return folder / f"{name}.db"


class Continue:
    @hookimpl
    def on_failure(self) -> Decision:
        return Decision.CONTINUE


async def test_a_tenants_own_plugins_are_asked(
    fleet_of: Callable[..., Fleet], folder: Path
) -> None:
    fleet = fleet_of("a", plugins=[Continue()])
    fleets.spoil(folder / "a.db")
    report = await fleet.run()
    assert (outcomes(report), fleet.ready("a")) == ({"a": "degraded"}, True)
    assert outcomes(await fleet.run()) == {"a": "degraded"}  # it is tried anew


@pytest.mark.plugins
async def test_a_strategy_repairs_the_tenant_that_fails_and_no_other(
    fleet_of: Callable[..., Fleet], folder: Path
) -> None:
    fleet = fleet_of("a", "b", recovery=["purge"])
    fleets.spoil(folder / "b.db")
    assert outcomes(await fleet.run()) == {"a": "migrated", "b": "recovered"}


class TestTheGate:
    async def test_a_fleet_migrates_only_when_asked(
        self, fleet_of: Callable[..., Fleet], folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("RUN_MIGRATIONS", raising=False)
        fleet = fleet_of("a", mode=None)
        assert (await fleet.run()).outcome == "skipped"
        assert heads_of(folder, "a") == set() and not fleet.ready("a")
        monkeypatch.setenv("RUN_MIGRATIONS", "1")
        assert (await fleet.run()).outcome == "migrated"

    async def test_mode_check_raises_for_what_is_pending(
        self, fleet_of: Callable[..., Fleet], folder: Path
    ) -> None:
        fleet = fleet_of("a")
        with pytest.raises(PendingError, match="1 at base, 3 pending to r3: r1, r2, r3"):
            await fleet.run(mode="check")
        assert heads_of(folder, "a") == set()
        await fleet.run()
        assert (await fleet.run(mode="check")).counts == {"current": 1}

    async def test_mode_wait_waits_for_another_process(
        self, fleet_of: Callable[..., Fleet], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("automigrator.fleet.fleet.POLL_S", 0.05)
        waiting, migrating = fleet_of("a"), fleet_of("a")
        async with asyncio.TaskGroup() as group:
            task = group.create_task(waiting.run(mode="wait"))
            await asyncio.sleep(0.1)
            assert not task.done()
            await migrating.run()
        assert waiting.ready("a")


def test_the_keywords_are_those_of_a_migrator(fleet_of: Callable[..., Fleet]) -> None:
    names = set(inspect.signature(Migrator).parameters) - {"targets"}
    assert set(MigratorOptions.__annotations__) == names
    with pytest.raises(ConfigurationError, match="mode="):
        fleet_of("a", mode="now")
    with pytest.raises(TypeError, match="unexpected"):
        fleet_of("a", nonsense=1)


async def test_one_run_at_a_time(fleet_of: Callable[..., Fleet]) -> None:
    fleet = fleet_of("a")
    async with asyncio.TaskGroup() as group:
        first = group.create_task(fleet.run())
        await asyncio.sleep(0)
        with pytest.raises(ConfigurationError, match="under way"):
            await fleet.run()
    assert first.result().outcome == "migrated"


async def test_a_source_that_cannot_be_read_touches_nobody(ini: Path, folder: Path) -> None:
    from automigrator.fleet import SourceError

    with pytest.raises(SourceError):
        await Fleet(files(folder, ini), mode="migrate").run()


async def test_tenants_fill_no_log(
    fleet_of: Callable[..., Fleet], caplog: pytest.LogCaptureFixture, folder: Path
) -> None:
    fleet = fleet_of("a", "b", "c")
    fleets.spoil(folder / "c.db")
    with caplog.at_level(logging.INFO, "automigrator"):
        await fleet.run()
    told = [r.message for r in caplog.records if r.name.startswith("automigrator")]
    assert not [line for line in told if line.startswith(("a:", "b:"))]
    assert len([line for line in told if line.startswith("c:")]) == 1


class TestSchemas:
    @pytest.fixture
    def url(self, empty_databases: Any) -> Iterator[str]:
        with empty_databases.lent() as url:
            yield url

    async def test_every_schema_comes_to_head_in_its_own(
        self, url: str, empty_databases: Any, tmp_path: Path
    ) -> None:
        names = ["a", "b", 'O\'Neill "& Co"']
        ini = fleets.schema_history(tmp_path)
        source = schemas(url, ini, query="select unnest(array['a','b'])", x=["tenant={schema}"])
        like = schemas(url, ini, like="%O%", x=["tenant={schema}"], version_table="alembic_version")
        with fleets.with_schemas(empty_databases.server, url.rpartition("/")[2], names):
            assert (await Fleet(source, mode="migrate").run()).counts == {"migrated": 2}
            fleet = Fleet(like, mode="migrate")
            assert (await fleet.run()).counts == {"migrated": 1}
            assert (await fleet.run()).counts == {"current": 1}
        made = ("alembic_version", "users", "posts")
        assert tables(url) == {f"{name}.{table}" for name in names for table in made}


class TestWhatTravels:
    """What another process is told, to bring tenants of the same fleet."""

    async def test_it_names_the_fleet_and_the_files_and_no_database(
        self, fleet_of: Callable[..., Fleet], ini: Path, folder: Path
    ) -> None:
        fleet = fleet_of("a", source="shop.main:fleet")
        work = await fleet.work()
        assert work.source == "shop.main:fleet" and str(folder) not in repr(work)
        assert (await fleet_of("a", source="shop.main:fleet").work()) == work
        fleets.deploy(ini, "r4", "r3")
        later = await fleet_of("a", source="shop.main:fleet").work()
        assert later.plan != work.plan
        (tenant,) = [each async for each in files(folder, ini)]
        listed = Fleet([tenant], source="shop.main:fleet")  # type: ignore[list-item]
        assert (await listed.work()).plan == later.plan

    async def test_a_fleet_that_cannot_be_found_says_so(
        self, fleet_of: Callable[..., Fleet]
    ) -> None:
        with pytest.raises(ConfigurationError, match="source='package.module:attribute'"):
            await fleet_of("a").work()
        with pytest.raises(ConfigurationError, match="should be package.module:attribute"):
            fleet_of("a", source="shop.main")

    async def test_a_worker_brings_a_tenant_by_its_name(
        self, fleet_of: Callable[..., Fleet], folder: Path
    ) -> None:
        fleet = fleet_of("a", "b")
        assert (await fleet.bring("b")).outcome == "migrated"
        assert heads_of(folder, "a") == set()
        report = await fleet.bring("nobody")
        assert report.failure is not None and report.failure["kind"] == "unreachable", report
        assert not (folder / "nobody.db").exists()


class Half(Local):
    """Takes the tenants whose names come first, as a shard does."""

    def takes(self, tenant: str) -> bool:
        return tenant < "c"

    @property
    def notes(self) -> tuple[str, ...]:
        return ("the others are somebody else's",)


async def test_what_an_executor_leaves_to_others_is_not_in_the_report(
    fleet_of: Callable[..., Fleet], folder: Path
) -> None:
    fleet = fleet_of("a", "b", "c", "d", executor=Half(), canary=["a", "d"])
    await fleet.quarantine("b", "c")
    report = await fleet.run()
    assert outcomes(report) == {"a": "migrated", "b": "quarantined"}
    assert (report.notes, fleet.progress.total) == (("the others are somebody else's",), 2)
    assert heads_of(folder, "d") == set()

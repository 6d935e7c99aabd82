"""Replicas that share tenants by claims in a control database."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from support.fleet_replicas import Replica, replicas

from automigrator.errors import ConfigurationError, ExecutorError
from automigrator.fleet.executors.claims import Claims
from automigrator.fleet.executors.contract import Executor
from automigrator.testing import ExecutorConformance
from automigrator.testing.contents import connected
from automigrator.testing.databases import CANARY
from automigrator.testing.executors.harness import ExecutorCase, Fed

QUICK = {"lease_s": 3.0, "poll_s": 0.2, "tasks": 2}


class WithControl(ExecutorCase):
    """Cases with a control database, which is no tenant's."""

    __test__ = False

    control: str

    @contextmanager
    def opened(self, kind: str, folder: Path, fixture: Callable[[str], Any]) -> Iterator[None]:
        self.control = fixture("postgres_url")
        with super().opened(kind, folder, fixture):
            yield

    def make(self) -> Executor:
        return Claims(self.control, **QUICK)

    def replica(self, *names: str, **options: Any) -> Replica:
        self.count = getattr(self, "count", 0) + 1
        told = {"control": self.control, **QUICK, **options}
        return Replica("claims", told, names, self.folder / f"replica{self.count}.jsonl")

    async def rows(self, sql: str) -> list[tuple[Any, ...]]:
        from sqlalchemy import make_url

        async with connected(make_url(self.control)) as connection:
            result = await connection.exec_driver_sql(sql)
            rows = [tuple(row) for row in result] if result.returns_rows else []
            await connection.commit()
            return rows


@pytest.mark.long
class TestConformance(WithControl, ExecutorConformance):
    offers = ("workers",)
    capacity = 2
    frozen_on = ("postgresql",)
    databases = ("sqlite", "postgresql")

    @asynccontextmanager
    async def losing(self, *names: str) -> AsyncIterator[Executor]:
        self.others = [self.replica(*names)]
        with replicas(*self.others):
            await self.tenants.noted("begin", names[0], elsewhere=True)
            self.others.append(self.replica(*names))
            with replicas(self.others[-1]):
                yield self.make()
                for each in self.others:
                    code = await each.ended()
                    told = [report["name"] for report in each.reports()]
                    assert len(told) == len(set(told)), "a replica counts a tenant twice"
                    assert code == -signal.SIGKILL or (code, sorted(told)) == (0, sorted(names))
        assert await self.rows("select from automigrator.fleet_claims") == []

    # nobody is asked whether it agrees: replicas of another history have a round of their own
    test_a_worker_with_another_history_refuses = None  # type: ignore[assignment]
    test_a_worker_with_another_release_refuses = None  # type: ignore[assignment]


class TestRounds(WithControl):
    databases = ("sqlite",)

    async def test_replicas_share_the_tenants_and_each_reports_all(self) -> None:
        names = [f"tenant{number}" for number in range(6)]
        both = [self.make(), self.make()]
        first, second = await asyncio.gather(*(self.ran(each, Fed(*names)) for each in both))
        assert sorted(first) == sorted(second) == sorted(names)
        began = [name for what, name, _ in self.tenants.notes() if what == "begin"]
        assert sorted(began) == sorted(names), "a tenant was brought twice"
        assert first == second
        assert sum(int(each.notes[0].split()[3]) for each in both) == len(names)
        await self.are_at_head(*names)

    async def test_nothing_stays_of_a_round_and_the_next_looks_anew(self) -> None:
        await self.ran(self.make(), Fed("tenant0"))
        for table in ("fleet_replicas", "fleet_claims"):
            assert await self.rows(f"select from automigrator.{table}") == []
        reports = await self.ran(self.make(), Fed("tenant0"))
        assert reports["tenant0"].outcome == "current"

    @pytest.mark.long
    async def test_replicas_of_another_history_have_a_round_of_their_own(self) -> None:
        other = type(self.tenants)(self.tenants.folder)
        other.plan = "another"
        await asyncio.gather(
            self.ran(self.make(), Fed("tenant0")), self.ran(self.make(), Fed("tenant0"), other)
        )
        began = [name for what, name, _ in self.tenants.notes() if what == "begin"]
        assert began == ["tenant0", "tenant0"]

    @pytest.mark.long
    async def test_an_engine_may_be_the_control_database(self) -> None:
        engine = create_async_engine(self.control)
        reports = await self.ran(Claims(engine, **QUICK), Fed("tenant0"))
        assert reports["tenant0"].outcome == "migrated"
        await engine.dispose()

    async def test_a_schema_of_somebody_else_is_refused(self) -> None:
        await self.rows("create role stranger")
        try:
            await self.rows("create schema automigrator authorization stranger")
            with pytest.raises(ConfigurationError, match="automigrator .* belongs to stranger"):
                await self.ran(self.make(), Fed("tenant0"))
        finally:
            await self.rows("drop owned by stranger cascade")
            await self.rows("drop role stranger")
        assert not self.tenants.notes()

    async def test_what_another_replica_wrote_is_checked_before_it_is_told(self) -> None:
        run = asyncio.ensure_future(self.ran(self.make(), Fed("slow0", "tenant0")))
        await self.tenants.noted("begin", "slow0")
        await self.rows(
            "update automigrator.fleet_claims set replica = gen_random_uuid(), "
            """report = '{"name": "tenant0", "outcome": "splendid"}' where tenant = 'slow0'"""
        )
        self.tenants.open_gate()
        reports = await run
        assert reports["slow0"].outcome == "failed"
        failure = reports["slow0"].failure
        assert failure is not None and "cannot be read" in failure["message"]

    async def test_a_result_counts_only_while_the_claim_is_its_own(self) -> None:
        """What a replica finds that was frozen for longer than its lease."""
        run = asyncio.ensure_future(self.ran(self.make(), Fed("slow0")))
        await self.tenants.noted("begin", "slow0")
        await self.rows(
            "insert into automigrator.fleet_replicas select gen_random_uuid(), round, key, "
            "until + interval '1 hour' from automigrator.fleet_replicas"
        )
        await self.rows(
            "update automigrator.fleet_claims c set replica = r.replica "
            "from automigrator.fleet_replicas r where r.replica <> c.replica"
        )
        self.tenants.open_gate()
        await self.tenants.noted("migrated", "slow0")
        await asyncio.sleep(0.3)
        assert not run.done(), "it counted what another replica has claimed"
        told = '{"name": "slow0", "outcome": "current", "worker": "the other"}'
        await self.rows(f"update automigrator.fleet_claims set report = '{told}'")
        assert (await run)["slow0"].worker == "the other"

    async def test_no_secret_is_in_the_control_database(self) -> None:
        run = asyncio.ensure_future(self.ran(self.make(), Fed("raising0", "slow0")))
        await self.tenants.noted("begin", "slow0")
        while not (  # noqa: ASYNC110 - a database
            found := await self.rows(
                "select report from automigrator.fleet_claims c where report is not null"
            )
        ):
            await asyncio.sleep(0.02)
        rows = [*found, *await self.rows("select key from automigrator.fleet_replicas")]
        self.tenants.open_gate()
        await run
        assert CANARY not in json.dumps(rows)

    @pytest.mark.long
    async def test_a_database_out_of_reach_ends_the_run_and_stops_what_it_began(self) -> None:
        engine = create_async_engine(self.control)
        run = asyncio.ensure_future(self.ran(Claims(engine, **QUICK), Fed("slow0")))
        await self.tenants.noted("begin", "slow0")
        await self.rows("drop schema automigrator cascade")
        with pytest.raises(ExecutorError, match="control database"):
            await run
        await self.nothing_is_under_way()
        await self.are_untouched("slow0")
        await engine.dispose()


def test_sqlite_is_refused_in_words() -> None:
    with pytest.raises(ConfigurationError, match="PostgreSQL, and sqlite was given"):
        Claims("sqlite+aiosqlite:///control.db")


@pytest.mark.long
class TestReplicas(WithControl):
    """Three replicas, two of which are killed."""

    databases = ("postgresql",)

    async def test_one_of_three_finishes_what_two_killed_ones_began(self) -> None:
        names = ["slow0", "slow1", "slow2", *(f"tenant{number}" for number in range(12))]
        three = [self.replica(*names, tasks=1) for _ in range(3)]
        with replicas(*three):
            for name in names[:3]:
                await self.tenants.noted("begin", name)
            for each in three[:2]:
                os.kill(each.pid, signal.SIGKILL)
            self.tenants.open_gate()
            assert await three[2].ended() == 0
        told = [report["name"] for report in three[2].reports()]
        assert sorted(told) == sorted(names)
        assert {report["outcome"] for report in three[2].reports()} <= {"migrated", "current"}
        await self.are_at_head(*names)
        assert await self.rows("select from automigrator.fleet_claims") == []

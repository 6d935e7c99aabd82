"""The order of a rollout, its bounds, and when it ends: with tenants that a test steps through."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from automigrator import ConfigurationError, Target
from automigrator.fleet import Fleet, Tenant, TenantReport
from automigrator.fleet.executors.contract import Bringing, Executor
from automigrator.fleet.executors.local import Local
from automigrator.fleet.progress import Progress
from automigrator.fleet.rollout import Rollout, Rules, staged


class Scripted:
    """A fleet whose tenants end when a test says so, or fail by their names."""

    def __init__(self, *, held: bool = False, failing: str = "") -> None:
        self.began: list[str] = []
        self.most = self._now = 0
        self.failing = failing
        self.let = asyncio.Event()
        if not held:
            self.let.set()

    async def bring(self, tenant: str) -> TenantReport:
        self.began.append(tenant)
        self._now += 1
        self.most = max(self.most, self._now)
        await self.let.wait()
        await asyncio.sleep(0.01)  # long enough for others to begin meanwhile
        self._now -= 1
        if tenant in self.failing.split():
            return TenantReport.failed(tenant, "revision", "it fails")
        return TenantReport(tenant, "migrated")

    async def work(self) -> Any:
        raise AssertionError


@pytest.fixture
def tenants(ini: Path) -> Callable[[str], list[Tenant]]:
    """`tenants("a b/group c@host")`: a tenant each, with its group and its server."""

    def make(described: str) -> list[Tenant]:
        made = []
        for each in described.split():
            rest, _, host = each.partition("@")
            name, _, group = rest.partition("/")
            url = f"postgresql+asyncpg://{host or 'h'}/{name}"
            made.append(Tenant(name, Target(url, ini, name=name), group))
        return made

    return make


def rollout(tenants: list[Tenant], **rules: Any) -> tuple[Rollout, list[str]]:
    ended: list[str] = []

    async def note(report: TenantReport) -> None:
        ended.append(report.name)

    kept = Rules(**rules)
    return Rollout(staged(tenants, kept), kept, Progress(), note), ended


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what is waited for knows of no event
            await asyncio.sleep(0.001)


async def test_groups_follow_each_other_and_the_rest_comes_last(tenants: Any) -> None:
    fleet = Scripted()
    work, ended = rollout(
        tenants("x c/paying a/internal b/internal y/unknown"), groups=["internal", "paying"]
    )
    await work.run(fleet, Local(8))
    assert set(fleet.began[:2]) == {"a", "b"} and fleet.began[2] == "c"
    assert sorted(ended) == ["a", "b", "c", "x", "y"]


@pytest.mark.parametrize("canary", [2, ["a", "b"]])
async def test_a_canary_comes_first_and_ends_the_rollout_where_it_fails(
    canary: Any, tenants: Any
) -> None:
    fleet = Scripted(failing="b")
    work, ended = rollout(tenants("a b c/internal d"), groups=["internal"], canary=canary)
    await work.run(fleet, Local(8))
    assert (ended, sorted(work.untried)) == (["a", "b"], ["c", "d"])
    assert "1 of 2 tenants of group 'canary' failed" in work.stopped

    fleet = Scripted(failing="b")
    work, ended = rollout(tenants("a b c d"), canary=canary, max_failures={"canary": 1})
    await work.run(fleet, Local(8))
    assert (len(ended), work.stopped) == (4, "")


@pytest.mark.parametrize(
    ("limit", "began"),
    [(None, 6), (1, 4), (2, 6), (0, 2), (0.3, 4), (0.5, 6), ({"*": 1}, 4), ({"the rest": 0}, 2)],
)
async def test_a_rollout_ends_once_more_have_failed_than_may(
    limit: Any, began: int, tenants: Any
) -> None:
    fleet = Scripted(failing="b d")
    work, _ = rollout(tenants("a b c d e f"), max_failures=limit, concurrency=1)
    await work.run(fleet, Local(4))
    assert len(fleet.began) == began
    assert (bool(work.stopped), len(work.untried)) == (began < 6, 6 - began)


async def test_a_group_and_a_server_have_so_many_tenants_at_a_time(tenants: Any) -> None:
    fleet = Scripted()
    work, ended = rollout(tenants("a b c d e f"), concurrency={"*": 3})
    await work.run(fleet, Local(8))
    assert (fleet.most, len(ended)) == (3, 6)

    fleet = Scripted(held=True)
    work, ended = rollout(tenants("a@x b@x c@x d@y"), per_server=1)
    async with asyncio.TaskGroup() as group:
        group.create_task(work.run(fleet, Local(8)))
        await until(lambda: len(fleet.began) == 2)
        await asyncio.sleep(0.01)
        assert fleet.began == ["a", "d"]  # a full server keeps no other waiting
        fleet.let.set()
    assert (fleet.most, len(ended)) == (2, 4)


async def test_no_tenant_is_begun_while_a_failure_is_written_down(tenants: Any) -> None:
    asked = asyncio.Event()

    async def ask(tenants: AsyncIterator[str]) -> str | None:
        await asked.wait()
        return await anext(tenants, None)

    class Prefetching(Executor):
        async def run(
            self, fleet: Bringing, tenants: AsyncIterator[str]
        ) -> AsyncGenerator[TenantReport]:
            first = await anext(tenants)
            asking = asyncio.ensure_future(ask(tenants))
            yield await fleet.bring(first)
            assert await asking is None

    async def written(report: TenantReport) -> None:
        asked.set()
        await asyncio.sleep(0.01)

    fleet = Scripted(failing="a")
    rules = Rules(concurrency=1, max_failures=0)
    work = Rollout(staged(tenants("a b"), rules), rules, Progress(), written)
    await work.run(fleet, Prefetching())
    assert fleet.began == ["a"]


async def test_a_paused_rollout_begins_no_further_tenant(tenants: Any) -> None:
    fleet = Scripted(held=True)
    work, ended = rollout(tenants("a b c"), concurrency=1)
    async with asyncio.TaskGroup() as group:
        group.create_task(work.run(fleet, Local(1)))
        await until(lambda: fleet.began)
        work.pause(True)
        fleet.let.set()
        await until(lambda: ended)
        await asyncio.sleep(0.01)
        assert (fleet.began, ended) == (["a"], ["a"])
        work.pause(False)
    assert ended == ["a", "b", "c"]


async def test_a_cancelled_rollout_leaves_nothing_running(tenants: Any) -> None:
    fleet = Scripted(held=True)
    work, ended = rollout(tenants("a b c"), concurrency=2)
    task = asyncio.create_task(work.run(fleet, Local(2)))
    await until(lambda: len(fleet.began) == 2)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    fleet.let.set()
    await asyncio.sleep(0.01)
    assert (ended, sorted(work.untried)) == ([], ["a", "b", "c"])
    assert asyncio.all_tasks() == {asyncio.current_task()}


class Twice(Executor):
    """Works at least once, as executors may."""

    async def run(
        self, fleet: Bringing, tenants: AsyncIterator[str]
    ) -> AsyncGenerator[TenantReport]:
        async for name in tenants:
            yield await fleet.bring(name)
            yield await fleet.bring(name)


async def test_a_tenant_that_is_reported_twice_counts_once(tenants: Any) -> None:
    work, ended = rollout(tenants("a b"))
    await work.run(Scripted(), Twice())
    assert ended == ["a", "b"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"groups": "internal"},
        {"groups": ["a", "a"]},
        {"groups": ["canary"]},
        {"canary": "acme"},
        {"canary": -1},
        {"canary": True},
        {"concurrency": 0},
        {"concurrency": {"nobody": 1}},
        {"per_server": 0},
        {"max_failures": -1},
        {"max_failures": 1.5},
        {"max_failures": True},
        {"max_failures": {"nobody": 1}},
    ],
)
def test_wrong_rules_are_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError):
        Rules(**wrong)


def test_a_canary_is_a_tenant(tenants: Any) -> None:
    with pytest.raises(ConfigurationError, match="no tenant of that name"):
        staged(tenants("a b"), Rules(canary=["c"]))


async def test_a_tenant_takes_less_than_ten_kilobytes(ini: Path) -> None:
    async def many() -> AsyncIterator[Target]:
        for number in range(1000):
            url = f"postgresql+asyncpg://u:p@h/t{number}"
            yield Target(url, ini, name=f"t{number}", x=[f"tenant=t{number}"])

    class Many(Fleet):
        async def bring(self, tenant: str) -> TenantReport:
            return TenantReport(tenant, "migrated", ("r1",), ("r3",), 2, 0.1, 1)

    fleet = Many(many, mode="migrate")
    tracemalloc.start()
    try:
        report = await fleet.run()
        assert report.counts == {"migrated": 1000}
        assert tracemalloc.get_traced_memory()[1] < 1000 * 10_000
    finally:
        tracemalloc.stop()

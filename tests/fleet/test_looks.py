"""How a fleet stands, found out without changing anything, and who may be served."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import fleets
from support.alembic_projects import tables

from automigrator import ConfigurationError
from automigrator.fleet import Fleet
from automigrator.fleet.looks import Looks, standing


async def test_tenants_are_grouped_by_what_they_lack(
    fleet_of: Callable[..., Fleet], folder: Path, ini: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = fleet_of("a", "b")
    await fleet.run()
    fleets.deploy(ini, "r4", "r3")
    (folder / "d.db").write_bytes(b"no database " * 1000)
    fleet = fleet_of("e", "f", "g")
    full: list[str] = []

    async def counted(target: Any, ahead: Any) -> Any:
        full.append(target.name)
        return await standing(target, ahead)

    monkeypatch.setattr("automigrator.fleet.looks.standing", counted)
    status = await fleet.check()
    found = {each.tenants: (each.heads, each.pending) for each in status.lacking}
    assert found == {
        ("e", "f", "g"): ((), ("r1", "r2", "r3", "r4")),
        ("a", "b"): (("r3",), ("r4",)),
    }
    assert status.counts == {"pending": 5, "problem": 1}
    assert [(each.name, each.kind) for each in status.problems] == [("d", "corrupt")]
    assert not status.current and tables(f"sqlite+aiosqlite:///{folder / 'e.db'}") == set()
    assert "2 at r3, 1 pending to r4: r4 (a, b)" in str(status)
    assert json.loads(json.dumps(status.to_dict()))["counts"] == {"pending": 5, "problem": 1}
    plan = await fleet.plan()
    assert "2 tenants: r3 -> r4 (a, b)\n  r4  r4" in str(plan)
    assert json.loads(json.dumps(plan.to_dict()))["groups"][0]["tenants"] == ["e", "f", "g"]
    await fleet.run()
    full.clear()
    await fleet.check()
    assert full == ["d"]  # for the others one SELECT was enough


async def test_what_is_lacking_is_found_out_once(
    fleet_of: Callable[..., Fleet], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"t{number}" for number in range(20)]
    fleet = fleet_of(*names, concurrency=1)
    full: list[str] = []

    async def counted(target: Any, ahead: Any) -> Any:
        full.append(target.name)
        return await standing(target, ahead)

    monkeypatch.setattr("automigrator.fleet.looks.standing", counted)
    assert (await fleet.check()).counts == {"pending": 20}
    assert full == ["t0"]


async def test_a_tenant_is_ready_once_it_was_seen_at_head(
    fleet_of: Callable[..., Fleet], folder: Path
) -> None:
    fleet = fleet_of("a", "b")
    fleets.spoil(folder / "b.db")
    assert [fleet.standing(name) for name in "ab"] == ["not yet"] * 2
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(fleet.until_ready("a"))
        await asyncio.sleep(0)
        await fleet.run()
    assert waiting.result() and fleet.ready("a") and not fleet.ready("b")
    assert [fleet.standing(name) for name in "abc"] == ["ready", "out of service", "unknown"]
    assert not await fleet.until_ready("b", limit=0.01)
    with pytest.raises(ConfigurationError):
        await fleet.until_ready("../c")


async def test_a_replica_that_runs_nothing_sees_when_another_has(
    fleet_of: Callable[..., Fleet],
) -> None:
    fleet, other = fleet_of("a", "b"), fleet_of("a", "b")
    await other.run()
    assert not fleet.ready("a")
    assert await fleet.until_ready("a", limit=5)
    await fleet.check()
    assert fleet.ready("b")


async def test_looks_are_so_many_at_a_time(fleet_of: Callable[..., Fleet], ini: Path) -> None:
    fleet = fleet_of("a", "b", "c", "d")
    tenants, _ = await fleet._members.read()
    now = most = 0

    class Counted(Looks):
        async def _look(self, tenant: Any) -> Any:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1

    await Counted("refuse", 3, None).status(tenants, [])
    assert most == 3
    most = 0
    await Counted("refuse", 3, 2).status(tenants, [])
    assert most == 2

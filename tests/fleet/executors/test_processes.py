"""Worker processes that are lost, refuse, or are left alone."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.fleet_replicas import Replica, replicas

from automigrator.errors import ConfigurationError, ExecutorError
from automigrator.fleet.executors.processes import Processes
from automigrator.support.concurrency import background
from automigrator.testing.executors.harness import ExecutorCase, Fed
from automigrator.testing.executors.losses import thaw


class OnFiles(ExecutorCase):
    __test__ = False
    databases = ("sqlite",)

    def module(self, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the fleet be found in a module of this text."""
        folder = self.folder / "modules"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(folder)
        self.tenants.source = f"{name}:fleet"


class TestLosses(OnFiles):
    async def test_a_killed_worker_is_replaced_and_its_tenant_is_finished(self) -> None:
        run = asyncio.ensure_future(self.ran(Processes(1, 1), Fed("slow0", "tenant0")))
        worker = await self.tenants.noted("begin", "slow0")
        os.kill(worker, signal.SIGKILL)
        self.tenants.open_gate()
        reports = await run
        assert {name: each.outcome for name, each in reports.items()} == {
            "slow0": "migrated",
            "tenant0": "migrated",
        }
        assert reports["slow0"].worker not in ("", f"process {worker}")
        await self.are_at_head("slow0", "tenant0")

    @pytest.mark.long
    async def test_a_tenant_that_kills_its_workers_harms_no_other(self) -> None:
        names = [f"tenant{number}" for number in range(6)]
        executor = Processes(2, 3, max_deaths=3)
        reports = await self.ran(executor, Fed(*names[:3], "deadly0", *names[3:]))
        deadly = reports.pop("deadly0")
        assert deadly.outcome == "failed" and deadly.failure is not None
        assert "3 workers were lost" in deadly.failure["message"]
        assert "killed by signal 9" in deadly.failure["message"]
        assert deadly.failure["state"] == "unknown"
        assert {report.outcome for report in reports.values()} <= {"migrated", "current"}
        await self.are_at_head(*names)

    @pytest.mark.long
    async def test_workers_that_only_die_end_the_run_and_say_what_to_do(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.module("dying", "import os; os._exit(3)", monkeypatch)
        with pytest.raises(ExecutorError, match=r"3 worker .* with code 3\. .* run the fleet"):
            await self.ran(Processes(1, max_losses=2), Fed("tenant0"))
        assert not self.tenants.notes()

    @pytest.mark.long
    async def test_a_worker_that_is_told_to_end_is_replaced_as_well(self) -> None:
        run = asyncio.ensure_future(self.ran(Processes(1, 1), Fed("slow0")))
        worker = await self.tenants.noted("begin", "slow0")
        os.kill(worker, signal.SIGTERM)
        await self.tenants.noted("cancelled", "slow0")
        self.tenants.open_gate()
        assert (await run)["slow0"].outcome == "migrated"
        await self.are_at_head("slow0")


@pytest.mark.long
class TestRandomKills(ExecutorCase):
    databases = ("sqlite", "postgresql")
    limit_s = 280

    async def test_tenants_are_right_whenever_workers_are_killed(self) -> None:
        seed = int(os.environ.get("AUTOMIGRATOR_SEED") or random.randrange(2**32))
        print(f"AUTOMIGRATOR_SEED={seed}")
        chance = random.Random(seed)
        names = [f"tenant{number}" for number in range(60)]
        kills = 0

        async def kill() -> None:
            nonlocal kills
            while kills < 30:
                await asyncio.sleep(chance.uniform(0.5, 5))
                begun = {worker for _, worker in self.tenants.under_way()} - killed
                if begun:
                    worker = chance.choice(sorted(begun))
                    killed.add(worker)
                    with suppress(ProcessLookupError):
                        os.kill(worker, signal.SIGKILL)
                        kills += 1

        killed: set[int] = set()
        executor = Processes(2, 2, max_losses=40, max_deaths=20)
        async with background(kill()):
            reports = await self.ran(executor, Fed(*names))
        print(f"{kills} workers were killed")
        failures = {name: each.failure for name, each in reports.items() if each.failure}
        assert not failures, failures
        assert {report.outcome for report in reports.values()} <= {"migrated", "current"}
        assert len(reports) == len(names) and kills > 3
        await self.are_at_head(*names)


@pytest.mark.long
class TestParents(OnFiles):
    async def parent(self, number: signal.Signals) -> tuple[Replica, int]:
        options = {"workers": 1, "tasks": 1, "stop_s": 20}
        parent = Replica("processes", options, ["slow0"], self.folder / "reports.jsonl")
        worker = await self.tenants.noted("begin", "slow0")
        assert worker != parent.pid
        os.kill(parent.pid, number)
        return parent, worker

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    async def test_no_orphan_stays_however_the_parent_ends(self, number: signal.Signals) -> None:
        parent, worker = await self.parent(number)
        with replicas(parent):
            assert await parent.ended() != 0
            await gone(worker)
        assert ("cancelled", "slow0", worker) in self.tenants.notes(), "it was not stopped, but cut"
        await self.are_untouched("slow0")

    async def test_a_parent_that_was_frozen_kills_no_worker_when_it_wakes_up(self) -> None:
        options = {"workers": 1, "tasks": 1, "silent_s": 4}
        parent = Replica("processes", options, ["slow0"], self.folder / "reports.jsonl")
        with replicas(parent):
            worker = await self.tenants.noted("begin", "slow0")
            os.kill(parent.pid, signal.SIGSTOP)
            await asyncio.sleep(6)
            thaw(parent.pid)
            await asyncio.sleep(1)
            self.tenants.open_gate()
            assert await parent.ended() == 0
        assert [each["worker"] for each in parent.reports()] == [f"process {worker}"]


class TestStarts(OnFiles):
    @pytest.mark.long
    async def test_output_and_logs_of_workers_reach_stderr(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        text = "import logging; print('printed'); logging.warning('logged')\n"
        text += "from automigrator.testing.executors.tenants import of_environment as fleet"
        self.module("talking", text, monkeypatch)
        reports = await self.ran(Processes(1), Fed("tenant0"))
        told = capfd.readouterr()
        assert reports["tenant0"].outcome == "migrated"
        assert "printed" in told.err and "logged" in told.err
        assert not told.out

    @pytest.mark.long
    async def test_a_callable_and_a_fleet_are_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        text = "from automigrator.testing.executors.tenants import of_environment\n"
        self.module("of_a_fleet", text + "fleet = of_environment()", monkeypatch)
        assert (await self.ran(Processes(1), Fed("tenant0")))["tenant0"].outcome == "migrated"

    @pytest.mark.long
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("import absent_module", "cannot be imported: ModuleNotFoundError"),
            ("fleets = 1", "cannot be imported: AttributeError"),
            ("fleet = 'a text'", "is a str, and should be a Fleet"),
            ("import sys; sys.exit(3)", "cannot be imported: SystemExit"),
        ],
    )
    async def test_a_fleet_that_cannot_be_found_is_refused(
        self, text: str, message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.module("lost_fleet", text, monkeypatch)
        fed = Fed("tenant0")
        with pytest.raises(ConfigurationError, match=message):
            await self.ran(Processes(2), fed)
        assert not fed.held

    @pytest.mark.parametrize("options", [{"workers": 0}, {"tasks": True}, {"silent_s": 0.0}])
    def test_wrong_options_are_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError):
            Processes(**options)


async def gone(process: int) -> None:
    """Wait until a process has ended."""
    while Path(f"/proc/{process}").exists():  # noqa: ASYNC110, ASYNC240 - another process
        await asyncio.sleep(0.05)

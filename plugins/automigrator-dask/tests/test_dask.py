"""What is particular to Dask: addresses, certificates, and workers that come and go."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from automigrator_dask import DaskExecutor
from automigrator_dask.addresses import ensure_safe
from distributed import Client, LocalCluster
from distributed.security import Security
from support.dask_cluster import cluster

from automigrator.errors import ConfigurationError, ExecutorError
from automigrator.fleet.executors.registry import load
from automigrator.testing.databases import CANARY
from automigrator.testing.executors.harness import ExecutorCase, Fed
from automigrator.testing.executors.losses import thaw

TLS = {"tls_ca_file": "ca.pem", "tls_client_cert": "cert.pem", "tls_client_key": "key.pem"}


def test_it_is_found_by_its_name() -> None:
    assert isinstance(load(("dask", {"cluster": "tcp://127.0.0.1:8786"})), DaskExecutor)


class TestAddresses:
    @pytest.mark.parametrize(
        "address",
        [
            "tcp://127.0.0.1:8786",
            "127.0.0.1:8786",
            "tcp://[::1]:8786",
            "tcp://localhost:1",
            "inproc://1/2",
        ],
    )
    def test_what_stays_on_this_machine_needs_no_certificate(self, address: str) -> None:
        ensure_safe(address, Security())

    @pytest.mark.parametrize(
        "address",
        [
            "tcp://10.0.0.1:8786",
            "10.0.0.1:8786",
            "tcp://scheduler:8786",
            "ws://127.0.0.1:8786",
            "ucx://127.0.0.1:8786",
            "tcp://127.0.0.1.example:8786",
            "tcp://127.0.0.1@evil:8786",
            "",
        ],
    )
    def test_what_others_could_read_is_refused(self, address: str) -> None:
        with pytest.raises(ConfigurationError, match="neither encrypted nor on this machine"):
            DaskExecutor(address)

    @pytest.mark.parametrize("files", [{}, {"tls_ca_file": "ca.pem"}, {**TLS, "tls_ca_file": None}])
    def test_tls_without_a_ca_is_refused(self, files: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError, match="no CA, or no certificate"):
            DaskExecutor("tls://scheduler:8786", **files)

    def test_tls_with_a_ca_is_taken(self) -> None:
        DaskExecutor("tls://scheduler:8786", **TLS)


class OnACluster(ExecutorCase):
    __test__ = False
    databases = ("sqlite",)


class TestInThisProcess(OnACluster):
    async def test_a_fleet_is_brought_and_a_failing_tenant_stops_nobody(self) -> None:
        names = ["tenant0", "broken0", "raising0", "tenant1"]
        async with LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            processes=False,
            dashboard_address=None,
            asynchronous=True,
        ) as made:
            reports = await self.ran(DaskExecutor(made.scheduler_address), Fed(*names))
        assert {name: each.outcome for name, each in reports.items()} == {
            "tenant0": "migrated",
            "broken0": "failed",
            "raising0": "failed",
            "tenant1": "migrated",
        }
        assert CANARY not in str(reports)
        await self.are_at_head("tenant0", "tenant1")


@pytest.mark.long
class TestClusters(OnACluster):
    async def test_nothing_that_is_secret_travels(self) -> None:
        def travelling(dask_scheduler: Any) -> list[bytes]:
            """Run on the scheduler: its tasks as they are sent to workers."""
            import pickle

            return [pickle.dumps(task.run_spec) for task in dask_scheduler.tasks.values()]

        async with cluster(self.folder / "dask", 1) as made:
            run = asyncio.ensure_future(self.ran(DaskExecutor(made.address), Fed("slow0")))
            await self.tenants.noted("begin", "slow0")
            async with Client(made.address, asynchronous=True, set_as_default=False) as client:
                tasks = await client.run_on_scheduler(travelling)
            self.tenants.open_gate()
            await run
        assert any(b"slow0" in task for task in tasks)
        for task in tasks:
            assert CANARY.encode() not in task and b"://" not in task

    async def test_a_worker_that_comes_later_and_disagrees_gets_no_tenant(
        self, tmp_path: Path
    ) -> None:
        other = tmp_path / "other"
        shutil.copytree(self.folder / "fleet", other)
        (other / "history" / "env.py").write_text("# another\n")
        async with cluster(self.folder / "dask", 1) as made:
            names = ["slow0", *(f"tenant{number}" for number in range(8))]
            run = asyncio.ensure_future(self.ran(DaskExecutor(made.address), Fed(*names)))
            await self.tenants.noted("begin", "slow0")
            made.add(AUTOMIGRATOR_TEST_TENANTS=str(other))
            await made.workers(2)
            self.tenants.open_gate()
            reports = await run
        assert {report.outcome for report in reports.values()} == {"migrated"}
        await self.are_at_head(*names)

    async def test_a_cluster_whose_only_workers_are_lost_ends_the_run(self) -> None:
        async with cluster(self.folder / "dask", 1) as made:
            executor = DaskExecutor(made.address, wait_s=20)
            run = asyncio.ensure_future(self.ran(executor, Fed("slow0")))
            os.kill(await self.tenants.noted("begin", "slow0"), signal.SIGKILL)
            with pytest.raises(ExecutorError, match="no worker is left .* Start workers"):
                await run

    async def test_a_worker_that_is_frozen_from_the_start_gets_no_tenant(self) -> None:
        async with cluster(self.folder / "dask", 2) as made:
            os.kill(made.processes[-1].pid, signal.SIGSTOP)
            executor = DaskExecutor(made.address, wait_s=20)
            reports = await self.ran(executor, Fed("tenant0", "tenant1", "tenant2"))
        assert {report.outcome for report in reports.values()} == {"migrated"}

    async def test_a_worker_that_is_lost_while_it_is_asked_gets_no_tenant(self) -> None:
        async with cluster(self.folder / "dask", 2) as made:
            lost = made.processes[-1]
            lost.send_signal(signal.SIGSTOP)
            executor = DaskExecutor(made.address, wait_s=60)
            run = asyncio.ensure_future(self.ran(executor, Fed("tenant0", "tenant1")))
            await asyncio.sleep(1)
            assert not run.done()
            lost.kill()
            reports = await run
        assert {report.outcome for report in reports.values()} == {"migrated"}

    async def test_a_run_whose_only_worker_is_lost_goes_on_with_the_next_one(self) -> None:
        async with cluster(self.folder / "dask", 1) as made:
            run = asyncio.ensure_future(
                self.ran(DaskExecutor(made.address), Fed("slow0", "tenant0"))
            )
            os.kill(await self.tenants.noted("begin", "slow0"), signal.SIGKILL)
            await asyncio.sleep(3)
            assert not run.done()
            self.tenants.open_gate()
            made.add()
            reports = await run
        assert {report.outcome for report in reports.values()} <= {"migrated", "current"}
        await self.are_at_head("slow0", "tenant0")

    async def test_a_scheduler_that_is_not_there_is_said(self) -> None:
        with pytest.raises(ExecutorError, match="does not answer"):
            await self.ran(DaskExecutor("tcp://127.0.0.1:9", wait_s=1), Fed("tenant0"))

    async def test_a_scheduler_that_is_killed_ends_the_run(self) -> None:
        async with cluster(self.folder / "dask", 1) as made:
            executor = DaskExecutor(made.address, wait_s=20, stop_s=3)
            run = asyncio.ensure_future(self.ran(executor, Fed("slow0")))
            await self.tenants.noted("begin", "slow0")
            made.processes[0].kill()
            with pytest.raises(ExecutorError, match="run the fleet again"):
                await run

    async def test_a_tenant_that_kills_its_workers_is_reported_as_failed(self) -> None:
        async with cluster(self.folder / "dask", 5) as made:
            reports = await self.ran(DaskExecutor(made.address), Fed("deadly0"))
        failure = reports["deadly0"].failure
        assert failure is not None and "workers were lost" in failure["message"]

    async def test_a_client_may_be_given(self) -> None:
        async with (
            cluster(self.folder / "dask", 1) as made,
            Client(made.address, asynchronous=True, set_as_default=False) as client,
        ):
            reports = await self.ran(DaskExecutor(client), Fed("tenant0"))
        assert reports["tenant0"].outcome == "migrated"

    async def test_certificates_of_one_ca_are_asked_for(self, tmp_path: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("openssl makes the certificates")
        files = certificates(tmp_path)
        others = certificates(tmp_path / "others")
        sides = {f"--tls-{name}": files[name] for name in ("ca-file", "cert", "key")}
        options = ["--protocol", "tls", *(word for pair in sides.items() for word in pair)]
        async with cluster(self.folder / "dask", 0, options=options) as made:
            assert made.address.startswith("tls://")
            made.add(*options)
            reports = await self.ran(DaskExecutor(made.address, **client(files)), Fed("tenant0"))
            assert reports["tenant0"].outcome == "migrated"
            stranger = DaskExecutor(made.address, wait_s=2, **client(others))
            with pytest.raises(ExecutorError, match="does not answer"):
                await self.ran(stranger, Fed("tenant1"))
        await self.are_untouched("tenant1")


@pytest.mark.long
class TestSpeculation(ExecutorCase):
    databases = ("postgresql",)

    async def test_a_second_worker_takes_over_from_a_frozen_one_before_dask_notices(self) -> None:
        async with cluster(self.folder / "dask") as made:
            executor = DaskExecutor(made.address, speculate_s=2, stop_s=3)
            run = asyncio.ensure_future(self.ran(executor, Fed("slow0", "tenant0")))
            worker = await self.tenants.noted("begin", "slow0")
            os.kill(worker, signal.SIGSTOP)
            try:
                self.tenants.open_gate()
                reports = await run
            finally:
                thaw(worker)
            assert {report.outcome for report in reports.values()} <= {"migrated", "current"}
            await self.are_at_head("slow0", "tenant0")
            await asyncio.sleep(1)
        await self.are_at_head("slow0", "tenant0")

    async def test_two_workers_with_one_tenant_do_it_once(self) -> None:
        async with cluster(self.folder / "dask") as made:
            executor = DaskExecutor(made.address, speculate_s=1)
            run = asyncio.ensure_future(self.ran(executor, Fed("slow0")))
            while len(self.tenants.under_way()) < 2:  # noqa: ASYNC110 - other processes
                await asyncio.sleep(0.05)
            self.tenants.open_gate()
            reports = await run
        assert reports["slow0"].outcome in ("migrated", "current")
        await self.are_at_head("slow0")


def client(files: dict[str, str]) -> dict[str, str]:
    return {
        "tls_ca_file": files["ca-file"],
        "tls_client_cert": files["cert"],
        "tls_client_key": files["key"],
    }


def certificates(folder: Path) -> dict[str, str]:
    """A CA of its own, and one certificate for every role."""
    folder.mkdir(exist_ok=True)

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "rsa:2048", "-nodes", "-keyout"]
    openssl(
        "req", "-x509", *key, "ca.key", "-out", "ca.pem", "-subj", "/CN=a test CA", "-days", "2"
    )
    openssl("req", *key, "key.pem", "-out", "request.pem", "-subj", "/CN=a test")
    signing = ["-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]
    openssl("x509", "-req", *signing, "-out", "cert.pem", "-days", "2")
    return {
        "ca-file": str(folder / "ca.pem"),
        "cert": str(folder / "cert.pem"),
        "key": str(folder / "key.pem"),
    }

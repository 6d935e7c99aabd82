"""Replicas on three hosts, one of which is cut off from the others and from the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import postgres_server
from support.fleet_replicas import Replica, replicas
from support.network_hosts import hosts

from automigrator.testing import Databases, PostgreSQLServer
from automigrator.testing.executors.harness import ExecutorCase

pytestmark = pytest.mark.long


class TestThreeHosts(ExecutorCase):
    databases = ("postgresql",)
    limit_s = 240

    @contextmanager
    def opened(self, kind: str, folder: Path, fixture: Callable[[str], Any]) -> Iterator[None]:
        try:
            network = hosts(3)
            address, net, self.hosts = network.__enter__()
        except PermissionError as error:
            pytest.skip(str(error))
        try:
            with postgres_server.folder_of_one() as place:
                postgres_server.initialise(place)
                with (place.data / "pg_hba.conf").open("a") as rules:
                    rules.write(f"host all all {net} trust\n")
                listening = {"listen_addresses": f"127.0.0.1,{address}"}
                with postgres_server.serving(place, **listening) as (server, _):
                    self.server = server.admin.set(host=address)
                    with super().opened(kind, folder, fixture):
                        yield
        finally:
            network.__exit__(None, None, None)

    def open_databases(self, kind: str, folder: Path, fixture: Callable[[str], Any]) -> Databases:
        return PostgreSQLServer(self.server)

    async def test_the_others_finish_what_a_host_that_is_cut_off_began(self) -> None:
        names = ["slow0", "slow1", "slow2", *(f"tenant{number}" for number in range(9))]
        control = self.server.render_as_string(hide_password=False)
        options = {"control": control, "lease_s": 3.0, "poll_s": 0.5, "tasks": 1}
        three = [
            Replica(
                "claims", options, names, self.folder / f"{host.name}.jsonl", command=host.command
            )
            for host in self.hosts
        ]
        with replicas(*three):
            where = {name: await self.tenants.noted("begin", name) for name in names[:3]}
            assert len(set(where.values())) == 3
            victim = next(each for each in three if each.pid == where["slow0"])
            self.hosts[three.index(victim)].cut_off()
            self.tenants.open_gate()
            others = [each for each in three if each is not victim]
            assert [await each.ended() for each in others] == [0, 0]
            for each in others:
                assert sorted(report["name"] for report in each.reports()) == sorted(names)
                outcomes = {report["outcome"] for report in each.reports()}
                assert outcomes <= {"migrated", "current"}
            await self.are_at_head(*names)
            assert await victim.ended() == 1, "it says that the control database is out of reach"
            assert not any(report["name"] == "slow0" for report in victim.reports())
        await self.are_at_head(*names)

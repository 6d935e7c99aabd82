"""The primary is lost and its standby promoted while processes start: each server stays whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support import alembic_projects
from support.blackhole import Cable, cable
from support.notes_application import GOOD, ROWS
from support.postgres_replicas import Replicas, replicas
from support.postgres_server import Server
from support.raced_application import COUNTED, Raced, outcomes
from support.starters import Start

from automigrator import MigrationError, Migrator, Run, hookimpl
from automigrator.backends.shared_connection import FRESH_S

pytestmark = pytest.mark.long

COUNT = f"""
import os
{COUNTED}
op.execute(f"INSERT INTO counted VALUES ({{os.getpid()}})")
"""


@dataclass
class Scene:
    """An application whose database's address leads to the primary, until somebody moves it."""

    servers: Replicas
    address: Cable
    root: Path

    def application(self, kind: str = "async") -> Raced:
        self.servers.primary.create("app")
        raced = Raced(self.root / "app", self.through(self.servers.primary), kind=kind)
        self.servers.await_replay()
        return raced

    def through(self, server: Server) -> str:
        url = server.admin.set(database="app", port=self.address.port)
        return url.render_as_string(hide_password=False)

    def move(self) -> None:
        """The address leads to the standby."""
        standby = self.servers.standby.admin
        self.address.lead_to(str(standby.host), standby.port or 0)

    def heads(self, server: Server) -> set[str]:
        return alembic_projects.heads(server.url("app"))

    def counted(self, server: Server) -> int:
        """How often the data step was committed there."""
        return len(server.execute("SELECT pid FROM counted", database="app"))

    @property
    def on_the_primary(self) -> str:
        return f"inet_server_port() = {self.servers.primary.admin.port}"

    @property
    def stuck(self) -> str:
        """A line of a revision: slow, and on the first primary only ended by its end."""
        seconds = f"CASE WHEN {self.on_the_primary} THEN 60 ELSE 0.3 END"
        return f'op.execute("SELECT pg_sleep({seconds})")\n'

    @property
    def held_up(self) -> str:
        """Lines of a revision that go on there when `go` is called."""
        return (
            "import os, time\n"
            f'if op.get_bind().exec_driver_sql("SELECT {self.on_the_primary}").scalar():\n'
            f"    while not os.path.exists({str(self.root / 'go')!r}):\n"
            "        time.sleep(0.01)\n"
        )

    def go(self) -> None:
        (self.root / "go").touch()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with replicas() as servers:
        primary = servers.primary.admin
        with cable(str(primary.host), primary.port or 0) as address:
            yield Scene(servers, address, tmp_path)


@pytest.mark.parametrize("env", ["async", "generic"])
def test_one_in_all_applies_on_the_new_primary_when_the_leader_loses_the_old(
    scene: Scene, env: str
) -> None:
    raced = scene.application(env)
    raced.traced(f"{scene.stuck}{COUNT}", GOOD)
    with raced.begun(*[raced.start_of()] * 4) as processes:
        leader = raced.await_trace()
        scene.servers.stop_primary()
        scene.servers.promote()
        scene.move()
        ended = processes.ended()
    assert {each.outcome for each in ended} <= {"failed", "migrated", "current"}, ended
    failed = [each for each in ended if each.outcome == "failed"]
    assert leader in [each.pid for each in failed]
    assert {kind for each in failed for kind in each.kinds} <= {"unreachable", "lock-timeout"}
    later = raced.together(raced.start_of(), 4)
    assert {each.outcome for each in later} <= {"migrated", "current"}, later
    assert outcomes([*ended, *later])["migrated"] == 1
    assert [revision for _, revision in raced.trace] == ["r2", "r2", "r3"]
    assert scene.heads(scene.servers.standby) == {"r3"}
    assert scene.counted(scene.servers.standby) == 1
    assert raced.notes() == ROWS


@pytest.mark.parametrize("replicated", [True, False])
def test_replicated_revisions_count_where_each_revision_is_committed(
    scene: Scene, replicated: bool
) -> None:
    raced, servers = scene.application("per_migration"), scene.servers
    if not replicated:
        servers.cut_stream()
    raced.traced(COUNT, f"{scene.stuck}{GOOD}")
    with raced.begun(raced.start_of()) as processes:
        raced.await_trace(2)
        if replicated:
            servers.await_replay()
        servers.promote()
        scene.move()
        servers.stop_primary()
        (ended,) = processes.ended()
    there, missing = (["r2"], ["r3"]) if replicated else ([], ["r2", "r3"])
    assert ended.report is not None
    assert (ended.outcome, ended.kinds) == ("failed", ["lock-timeout"])
    gone, moved = "session that held the migration lock is gone", "leads to another server"
    assert gone in ended.text or moved in ended.text  # whichever is seen first
    assert [each["revision"] for each in ended.report["applied"]] == there
    assert ended.report["after"] == (there or ["r1"])
    (again,) = raced.together(raced.start_of(), 1)
    assert again.report is not None
    assert [each["revision"] for each in again.report["applied"]] == missing
    assert scene.counted(servers.standby) == 1


def test_two_servers_are_two_databases_and_the_run_on_each_is_whole(scene: Scene) -> None:
    raced, servers = scene.application(), scene.servers
    raced.traced(f"{scene.held_up}{COUNT}", GOOD)
    with raced.begun(raced.start_of()) as old:
        raced.await_trace()
        servers.promote()
        scene.move()
        new = raced.together(raced.start_of(), 3)
        time.sleep(FRESH_S)  # a move is noticed once it is older than this
        scene.go()
        (ended,) = old.ended()
    assert outcomes(new) == {"current": 2, "migrated": 1}
    assert (ended.outcome, ended.kinds) == ("failed", ["lock-timeout"])
    assert "leads to another server" in ended.text
    for server in (servers.primary, servers.standby):
        assert (scene.heads(server), scene.counted(server)) == ({"r3"}, 1)


def test_a_leader_whose_connections_are_closed_by_the_move_changes_neither_server(
    scene: Scene,
) -> None:
    raced, servers = scene.application(), scene.servers
    raced.traced(f"{scene.held_up}{COUNT}", GOOD)
    with raced.begun(raced.start_of()) as old:
        raced.await_trace()
        servers.promote()
        scene.move()
        scene.address.cut()
        scene.go()
        (ended,) = old.ended()
    assert (ended.outcome, ended.kinds) == ("failed", ["lock-timeout"])
    assert [scene.heads(each) for each in (servers.primary, servers.standby)] == [{"r1"}, {"r1"}]
    (again,) = raced.together(raced.start_of(), 1)
    assert again.outcome == "migrated"


@pytest.mark.parametrize("drive", ["given", "own"])
def test_no_one_applies_on_a_server_whose_lock_it_does_not_hold(scene: Scene, drive: str) -> None:
    raced, servers = scene.application("generic"), scene.servers
    raced.traced(COUNT, GOOD)

    class Moves:
        @hookimpl
        def before_migrate(self, run: Run) -> None:
            """The lock's session stays on the old primary; what connects from now on does not."""
            servers.promote()
            scene.move()

    async def run() -> None:
        target = raced.target(drive=drive)
        await Migrator(target, mode="migrate", plugins=[Moves()]).run()

    with pytest.raises(MigrationError, match="leads to another server") as caught:
        asyncio.run(run())
    assert caught.value.report.targets[0].failures[0].kind == "lock-timeout"
    assert raced.trace == []
    (again,) = raced.together(raced.start_of(), 1)
    assert again.outcome == "migrated"
    assert [scene.heads(each) for each in (servers.primary, servers.standby)] == [{"r1"}, {"r3"}]


def test_a_standby_is_waited_for_until_it_is_promoted(scene: Scene) -> None:
    raced = scene.application()
    raced.traced(COUNT)
    scene.move()
    with raced.begun(*[raced.start_of()] * 3) as processes:
        await_log(raced, "a standby to be promoted")
        scene.servers.promote()
        ended = processes.ended()
    assert outcomes(ended)["migrated"] == 1
    assert outcomes(ended).get("current") == 2


def test_a_standby_that_stays_one_is_refused_and_one_that_lacks_nothing_is_current(
    scene: Scene,
) -> None:
    raced = scene.application()
    scene.move()
    (current,) = raced.together(raced.start_of(), 1)
    assert current.outcome == "current"
    raced.traced(COUNT)
    (ended,) = raced.together(raced.start_of(connect_timeout=0.5), 1)
    assert (ended.outcome, ended.kinds) == ("failed", ["read-only"])
    assert "is a standby, which only replays what its primary does; nothing was" in ended.text
    assert raced.trace == []


def several(scene: Scene, start: Start, *servers: Server) -> Start:
    """The same start with a URL that names these hosts and asks for the primary among them."""
    hosts = [f"{each.admin.host}:{each.admin.port}" for each in servers]
    query = {"host": hosts, "target_session_attrs": "primary"}
    url = scene.servers.primary.admin.set(database="app").set(host=None, port=None, query=query)
    return replace(start, url=url.render_as_string(hide_password=False))


@pytest.mark.parametrize("env", ["generic", "async", "own"])
def test_a_url_of_several_hosts_leads_to_whichever_is_the_primary(scene: Scene, env: str) -> None:
    options = {"drive": "own"} if env == "own" else {}
    raced, servers = scene.application("async" if env == "async" else "generic"), scene.servers
    raced.traced(COUNT)
    # the maintenance database, the lock's session and the engines of our own go the same way
    before = several(scene, raced.start_of(**options), servers.standby, servers.primary)
    assert [each.outcome for each in raced.together(before, 1)] == ["migrated"]
    servers.await_replay()
    servers.stop_primary()
    raced.traced(GOOD)
    after = several(scene, raced.start_of(engine={}), servers.primary, servers.standby)
    with raced.begun(after, after) as processes:
        await_log(raced, "waiting for the database server")
        servers.promote()
        assert outcomes(processes.ended())["migrated"] == 1
    assert scene.heads(servers.standby) == {"r3"}


def test_standbys_alone_are_waited_for_by_a_url_of_several_hosts(scene: Scene) -> None:
    raced, servers = scene.application(), scene.servers
    raced.traced(GOOD)
    start = several(scene, raced.start_of(), servers.standby)
    with raced.begun(start) as processes:
        await_log(raced, "waiting for the database server")
        servers.promote()
        (ended,) = processes.ended()
    assert ended.outcome == "migrated"


def await_log(raced: Raced, words: str, limit_s: float = 30) -> None:
    deadline = time.monotonic() + limit_s
    while not any(words in log.read_text() for log in (raced.root / "logs").glob("*.log")):
        assert time.monotonic() < deadline, f"nobody logged {words!r} within {limit_s} s"
        time.sleep(0.02)

"""Whole fleets whose replicas, workers and hosts are lost: the others finish, and all is right."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fleet_kills import application
from fleet_kills.arena import Arena, arena
from fleet_kills.rounds import Kind, Round, Tenant
from support import postgres_server
from support.network_hosts import hosts
from support.postgres_server import Server

pytestmark = [pytest.mark.long, pytest.mark.plugins]

TENANTS = (
    *(
        Tenant(f"tenant{number:02}", ("base", "r1", "r2")[number % 3], "", "none")
        for number in range(10)
    ),
    Tenant("tenant10", "r2", "row", "none"),
    Tenant("tenant11", "r2", "statement", "log-and-continue"),
)
"""Ten sound ones, and two that fail."""

NOTICED_SOON = {f"tcp_keepalives_{name}": "1" for name in ("idle", "interval", "count")}
"""Else a server keeps the idle sessions of a host that is gone for two hours."""

TTL_S = 30
"""Seconds after which Dask takes a silent worker for lost: it is not silent on a busy machine."""


def gated(executor: str, kind: Kind = "schemas") -> Round:
    """A round whose tenants wait in their third revision."""
    many = 3 if executor in ("shards", "claims") else 1
    return Round(0, executor, kind, TENANTS, False, False, False, many, True, (), (), gated=True)


@pytest.fixture
def server() -> Iterator[Server]:
    with postgres_server.stoppable() as (made, _):
        yield made


@contextmanager
def laid(folder: Path, drawn: Round, server: Server) -> Iterator[Arena]:
    with arena(folder, drawn, server) as made:
        made.lay()
        yield made


def until(done: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 120
    while not done():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.05)


def at_work(server: Server, number: int) -> Callable[[], bool]:
    """Whether so many tenants wait in their third revision: each has a lock, and a transaction."""
    sql = "select count(*) from pg_stat_activity where state = 'idle in transaction'"
    return lambda: server.execute(sql)[0][0] >= number


def test_one_of_three_replicas_finishes_what_two_killed_ones_have_claimed(
    tmp_path: Path, server: Server
) -> None:
    with laid(tmp_path / "round", gated("claims"), server) as made:
        three = made.begin_all()
        until(at_work(server, 6))  # two each
        for each in three[:2]:
            os.kill(each.pid, signal.SIGKILL)
        made.gate.touch()
        made.end(three)
        assert not made.wrong([three[2].report()])


def test_a_shard_that_was_killed_is_finished_when_it_is_started_again(
    tmp_path: Path, server: Server
) -> None:
    with laid(tmp_path / "round", gated("shards"), server) as made:
        three = made.begin_all()
        until(at_work(server, 7))
        os.kill(three[1].pid, signal.SIGKILL)
        made.gate.touch()
        three[1].process.join()
        three[1] = made.begin(1)
        made.end(three)
        assert not made.wrong([each.report() for each in three])


def test_dask_finishes_what_a_killed_worker_and_a_frozen_one_have_begun(
    tmp_path: Path, server: Server
) -> None:
    pytest.importorskip("distributed")
    with laid(tmp_path / "round", gated("dask"), server) as made:
        with made.with_cluster(TTL_S):
            assert made.cluster is not None
            killed, frozen = made.cluster.workers_alive()
            (one,) = made.begin_all()
            until(at_work(server, 4))
            killed.kill()
            frozen.send_signal(signal.SIGSTOP)
            made.add_worker()
            made.gate.touch()
            made.end([one])
            frozen.send_signal(signal.SIGCONT)
            time.sleep(2)  # whatever it does when it wakes up
        assert not made.wrong([one.report()])


def test_hosts_finish_what_one_that_is_cut_off_has_begun(tmp_path: Path) -> None:
    with ExitStack() as stack:
        try:
            address, network, three = stack.enter_context(hosts(3))
        except PermissionError as error:
            pytest.skip(str(error))
        place = stack.enter_context(postgres_server.folder_of_one())
        postgres_server.initialise(place)
        with (place.data / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {network} trust\n")
        listening = {"listen_addresses": f"127.0.0.1,{address}", **NOTICED_SOON}
        local, _ = stack.enter_context(postgres_server.serving(place, **listening))
        server = Server(local.admin.set(host=address))
        stack.callback(server.close)
        made = stack.enter_context(laid(tmp_path / "round", gated("claims"), server))
        replicas = [begun_on(made, host.command, number) for number, host in enumerate(three)]
        for process, _ in replicas:
            stack.callback(process.wait)
            stack.callback(process.kill)
        until(at_work(server, 6))
        three[0].cut_off()
        made.gate.touch()
        for process, _ in replicas:
            process.wait()
        reports = [json.loads(out.read_text("utf-8")) for _, out in replicas]
        assert not made.wrong(reports[1:])
        assert "the control database cannot be used" in reports[0]["raised"]


def begun_on(made: Arena, command: list[str], number: int) -> tuple[subprocess.Popen[str], Path]:
    """A replica on another host, and where its report will be."""
    out = made.folder / f"host{number}.json"
    executor = application.executor_of("claims", 0, made.server.url("claims"), "")
    told = {"folder": str(made.folder), "executor": executor, "out": str(out)}
    process = subprocess.Popen(
        [*command, sys.executable, "-c", "from fleet_kills.application import main; main()"],
        stdin=subprocess.PIPE,
        text=True,
        env={**os.environ, **made.environment},
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(told))  # not an argument: a URL is in it
    process.stdin.close()
    return process, out

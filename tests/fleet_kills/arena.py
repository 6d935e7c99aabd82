"""Plays a round: processes run its fleet, are killed and frozen, and the last start ends."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fleet_kills import application, judge
from fleet_kills.places import Databases, Files, Place, Schemas, history, twins
from fleet_kills.rounds import Disturbance, Round
from support.dask_cluster import Cluster
from support.postgres_server import Server
from support.starters import FORKSERVER

LIMIT_S = 600.0
"""Nothing here takes so long, on a busy machine either."""

STARTS = 3
"""That end by themselves, at most: a failure that passes is left to the next one."""

TTL_S = 15
"""Seconds after which Dask takes a silent worker for lost."""

AFTER_LEASE_S = max(application.LEASE_S, TTL_S) + 1.0


@dataclass
class Found:
    """What became of a round."""

    kills: int = 0
    freezes: int = 0
    again: int = 0
    """Starts after one that ended by itself and left a tenant to the next one."""
    outcomes: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Coordinator:
    """A process that runs the fleet, and where its report will be."""

    process: Any
    out: Path
    index: int

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    def report(self) -> dict[str, Any]:
        if not self.out.exists():
            return {"raised": f"{self.out} was not written; exit code {self.process.exitcode}"}
        return dict(json.loads(self.out.read_text("utf-8")))


class Arena:
    """The processes of one round, in a folder of its own."""

    def __init__(self, folder: Path, drawn: Round, server: Server, place: Place) -> None:
        self.folder, self.drawn, self.server, self.place = folder, drawn, server, place
        self.found = Found()
        self.cluster: Cluster | None = None
        self._begun = 0
        self._frozen: list[tuple[float, int]] = []
        """When to let whom go on."""
        self.gate = folder / "gate"
        self._laid: dict[str, str] = {}
        self._twins: dict[tuple[str, str], str] = {}
        self.ini = history(folder, drawn)
        self.control = server.url("control") if drawn.ledger_on_server else ""
        self.control = self.control or f"sqlite+aiosqlite:///{folder / 'control.sqlite'}"
        told = {
            "kind": drawn.kind,
            "place": place.told(),
            "ini": str(self.ini),
            "control": self.control,
            "replay": drawn.replay,
            "strategies": {each.name: each.strategy for each in drawn.tenants},
        }
        (folder / "fleet.json").write_text(json.dumps(told), "utf-8")

    def begin(self, index: int) -> Coordinator:
        self._begun += 1
        cluster = self.cluster.address if self.cluster else ""
        claims = self.server.url("claims")
        executor = application.executor_of(self.drawn.executor, index, claims, cluster)
        out = self.folder / f"report{self._begun:02}.json"
        process = FORKSERVER.Process(target=application.run, args=(self.folder, executor, out))
        process.start()
        return Coordinator(process, out, index)

    def begin_all(self) -> list[Coordinator]:
        """Begin as many as the round has, and wait until each is about to run."""
        begun = [self.begin(index) for index in range(self.drawn.replicas)]
        self._until(lambda: all(each.out.with_suffix(".begun").exists() for each in begun), "begin")
        return begun

    def disturbed(self, disturbances: tuple[Disturbance, ...], ended: bool) -> None:
        """A start, in which what is drawn happens; it is killed then, or ends by itself."""
        running = self.begin_all()
        began = time.monotonic()
        for each in sorted(disturbances, key=lambda each: each.after_s):
            self._sleep_until(began + each.after_s)
            self._act(each, running)
        if not ended:
            self.end(running)
        else:
            self._sleep_until(time.monotonic() + 0.3)
            for each in running:
                if each.process.is_alive():  # the number of one that ended may be another's
                    self._kill(each.pid)
        self._thaw(for_all=True)
        self.end(running)

    def end(self, running: list[Coordinator]) -> None:
        """Wait until all have ended; a shard that was killed is begun again."""
        for each in running:
            self._until(lambda each=each: not each.process.is_alive(), "end")  # type: ignore[misc]
            each.process.join()

    def _act(self, what: Disturbance, running: list[Coordinator]) -> None:
        victims = [each.pid for each in running if each.process.is_alive()]
        if what.act.endswith("worker"):
            victims = [worker for each in victims for worker in children(each)]
            if self.cluster is not None:
                victims = [each.pid for each in self.cluster.workers_alive()]
        if not victims:
            return
        victim = victims[int(what.which * len(victims))]
        if what.act.startswith("kill"):
            self._kill(victim)
            if self.cluster is not None and what.act == "kill worker":
                self.add_worker()
            for each in running:
                if each.pid == victim and self.drawn.executor == "shards":  # as an orchestrator
                    running.append(self.begin(each.index))
        else:
            os.kill(victim, signal.SIGSTOP)
            self.found.freezes += 1
            # a lock on a file has no lease: whoever waits for it waits for this process
            after_s = 1.0 if self.drawn.kind == "files" else AFTER_LEASE_S
            self._frozen.append((time.monotonic() + after_s, victim))

    def _kill(self, pid: int) -> None:
        with suppress(ProcessLookupError):
            if state_of(pid) not in ("Z", ""):
                os.kill(pid, signal.SIGKILL)
                self.found.kills += 1

    def _thaw(self, *, for_all: bool = False) -> None:
        while self._frozen and (for_all or self._frozen[0][0] <= time.monotonic()):
            when, pid = self._frozen.pop(0)
            time.sleep(max(when - time.monotonic(), 0))
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _sleep_until(self, when: float) -> None:
        while (left := when - time.monotonic()) > 0:
            self._thaw()
            time.sleep(min(left, 0.05))

    def _until(self, done: Any, what: str) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not done():
            self._thaw()
            if time.monotonic() > deadline:
                raise TimeoutError(f"a process did not {what} within {LIMIT_S:g} s")
            time.sleep(0.02)

    def add_worker(self) -> None:
        """Start one more worker of the cluster."""
        assert self.cluster is not None
        self.cluster.add(**self.environment)

    @property
    def environment(self) -> dict[str, str]:
        """What a process by itself needs to find the fleet."""
        here = str(Path(__file__).parents[1])
        path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
        return {application.VARIABLE: str(self.folder), "PYTHONPATH": path}

    def lay(self) -> None:
        """Make the tenants, and twins of them that plain Alembic migrates."""
        for each in self.drawn.tenants:
            self.place.lay(each.name, each.start, each.trouble)
        self._laid = {each.name: self.place.dumped(each.name) for each in self.drawn.failing}
        self.gate.touch()
        self._twins = twins(self.place, self.ini, self.drawn.tenants)
        self.gate.unlink()

    def wrong(self, reports: Sequence[Mapping[str, Any]]) -> list[str]:
        """What is wrong after the last start, whose reports these are."""
        told = judge.merged(reports)
        return [
            *judge.untold(self.drawn, reports),
            *judge.tenants(self.drawn, self.place, self._laid, self._twins, told),
            *judge.ledger(self.drawn, self.control, told),
            *judge.left(self.folder, self.server, self.place, self.drawn),
        ]

    def play(self) -> Found:
        """All of the round, and the verdict."""
        began = time.monotonic()
        self.lay()
        with self.with_cluster():
            for disturbances, ended in zip(self.drawn.disturbed, self.drawn.ended, strict=True):
                self.disturbed(disturbances, ended)
            for _ in range(STARTS):
                last = self.begin_all()
                self.end(last)
                reports = [each.report() for each in last]
                if not judge.passing(reports):
                    break
                self.found.again += 1
        self.found.wrong += self.wrong(reports)
        for part in judge.merged(reports).values():
            outcome = part["outcome"]
            self.found.outcomes[outcome] = self.found.outcomes.get(outcome, 0) + 1
        self.found.seconds = time.monotonic() - began
        return self.found

    @contextmanager
    def with_cluster(self, ttl_s: int = TTL_S) -> Iterator[None]:
        """Context manager: a cluster of two workers where the executor is Dask."""
        if self.drawn.executor != "dask":
            yield
            return
        folder = self.folder / "dask"
        folder.mkdir()
        self.cluster = Cluster(folder)
        try:
            ttl = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": f"{ttl_s}s"}
            asyncio.run(self.cluster.start(**ttl))
            for _ in range(2):
                self.add_worker()
            asyncio.run(self.cluster.workers(2))
            yield
        finally:
            for each in self.cluster.processes:
                each.kill()
            for each in self.cluster.processes:
                each.wait()


@contextmanager
def arena(folder: Path, drawn: Round, server: Server) -> Iterator[Arena]:
    """Context manager: an arena in a folder that is new; nothing stays at the server."""
    folder.mkdir(parents=True)
    for name in ("control", "claims"):
        server.create(name)
    try:
        place: Place
        if drawn.kind == "files":
            place = Files(folder)
        else:
            place = Schemas(server) if drawn.kind == "schemas" else Databases(server)
        yield Arena(folder, drawn, server, place)
    finally:
        for name in ("control", "claims", "shop", "tenant", "twin"):
            server.drop_all(name)


def played(folder: Path, drawn: Round, server: Server) -> Found:
    """Play a round in a folder, which is removed where nothing was wrong."""
    with arena(folder, drawn, server) as made:
        found = made.play()
    if not found.wrong:
        shutil.rmtree(folder)
    return found


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    with suppress(OSError):
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def state_of(pid: int) -> str:
    """The letter that the kernel has for a process's state; empty where there is none."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""

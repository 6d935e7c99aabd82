"""One snapshot and restore of ours in a fresh process; prints what each cost as JSON.

    python benchmarks/recovery_ours.py run|watched URL INI [SERVER_PID [FOLDER]]
    python benchmarks/recovery_ours.py copy SOURCE DESTINATION

`run` goes through the public face: a migration whose second revision fails after the first was
committed, with `backup-restore`, by a dump where a folder for it is named. An act is timed from
the hook of our own that is asked just before the strategy to the event that says it is done.
`watched` is the same with a task that looks for stalls of the event loop, and so costs CPU of its
own. `copy` is a SQLite copy without check.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import resource
import sys
import time
from pathlib import Path
from typing import Any

from costs import Cost, cpu_s, queued_s
from stall import Stall

from automigrator import Event, Failure, MigrationError, Migrator, Run, Target, hookimpl
from automigrator.backends.sqlite import backup
from automigrator.support.concurrency import in_thread


class Laps:
    """Times what lies between `begin` and `end`."""

    def __init__(self, stall: Stall, server: int | None = None) -> None:
        self.costs: dict[str, Cost] = {}
        self._stall, self._server = stall, server
        self._began, self._cpu = 0.0, 0.0

    def begin(self) -> None:
        self._stall.reset()
        self._began, self._cpu = time.perf_counter(), cpu_s(self._server)

    def end(self, act: str) -> None:
        self.costs[act] = {
            "wall": time.perf_counter() - self._began,
            "cpu": cpu_s(self._server) - self._cpu,
            "stall": self._stall.longest,
            "blocked": self._stall.blocked,
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }

    @hookimpl
    async def before_migrate(self, run: Run) -> None:
        self.begin()

    @hookimpl
    async def on_failure(self, run: Run, failure: Failure) -> None:
        assert failure.state == "partial-at-boundary", failure
        self.begin()

    @hookimpl
    def on_event(self, event: Event) -> None:
        if event.name == "snapshot-taken":
            self.end("snapshot")
        elif event.name == "restored":
            self.end("restore")


async def run(
    url: str, ini: str, server: str = "", folder: str = "", *, watched: bool = False
) -> dict[str, Cost]:
    stall = Stall(queued_s)
    laps = Laps(stall, int(server) if server else None)
    options: dict[str, Any] = {"snapshot": "always", "disconnect_others": True}
    if folder:
        options |= {"copy": "dump", "folder": folder}
    migrator = Migrator(
        Target(url, ini), mode="migrate", recovery=[("backup-restore", options)], plugins=[laps]
    )
    await migrator.clear()  # what the rounds before have left to remember
    try:
        async with stall if watched else contextlib.nullcontext():
            await migrator.run()
    except MigrationError as error:
        if "meant to fail" not in str(error):
            raise
    return laps.costs


async def watched(url: str, ini: str, *more: str) -> dict[str, Cost]:
    return await run(url, ini, *more, watched=True)


async def copy(source: str, destination: str) -> dict[str, Cost]:
    laps = Laps(Stall())
    laps.begin()
    await in_thread(lambda: backup.copy(Path(source), Path(destination)))
    laps.end("copy")
    return laps.costs


WHAT = {"run": run, "watched": watched, "copy": copy}

if __name__ == "__main__":
    logging.disable()  # the failure is meant
    what, *arguments = sys.argv[1:]
    print(json.dumps(asyncio.run(WHAT[what](*arguments))))

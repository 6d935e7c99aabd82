"""A Dask scheduler and workers as processes of this machine, which are killed and frozen."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from distributed import Client


class Cluster:
    """A scheduler; `add` starts a worker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        self.address = ""

    async def start(self, *options: str, **environment: str) -> None:
        file = self.folder / "scheduler.json"
        here = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show"]
        self._begin("scheduler", "--scheduler-file", str(file), *here, *options, **environment)
        while not self.address:
            await asyncio.sleep(0.05)
            if file.exists() and (text := file.read_text()):
                self.address = json.loads(text)["address"]

    def add(self, *options: str, threads: int = 2, **environment: str) -> subprocess.Popen[bytes]:
        here = ["--host", "127.0.0.1", "--no-dashboard", "--no-nanny", "--nthreads", str(threads)]
        local = ["--local-directory", str(self.folder / "workers")]
        return self._begin("worker", self.address, *here, *local, *options, **environment)

    def workers_alive(self) -> list[subprocess.Popen[bytes]]:
        """Those that have not ended."""
        return [each for each in self.processes[1:] if each.poll() is None]

    async def workers(self, number: int) -> None:
        """Wait for workers."""
        async with Client(self.address, asynchronous=True, set_as_default=False) as client:
            await client.wait_for_workers(number, timeout=60)

    def _begin(self, what: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{what}{len(self.processes)}.log").open("wb")
        with log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{what}", *arguments],
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
            )
        self.processes.append(process)
        return process


@asynccontextmanager
async def cluster(
    folder: Path, workers: int = 2, ttl_s: int = 300, *, options: Sequence[str] = ()
) -> AsyncIterator[Cluster]:
    """Context manager: a cluster with workers of two threads each, all killed at the end."""
    folder.mkdir(exist_ok=True)  # noqa: ASYNC240 - before anything runs
    made = Cluster(folder)
    try:
        await made.start(*options, DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL=f"{ttl_s}s")
        for _ in range(workers):
            made.add(*options)
        if workers:
            await made.workers(workers)
        yield made
    finally:
        for each in made.processes:
            each.kill()
        for each in made.processes:
            each.wait()

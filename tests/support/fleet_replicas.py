"""Replicas of a service that bring the same fleet, as processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from automigrator.fleet.executors.registry import load
from automigrator.testing.executors.tenants import of_environment


class Replica:
    """A process that runs an executor over the tenants named, and writes down its reports."""

    def __init__(
        self,
        executor: str,
        options: dict[str, Any],
        names: Sequence[str],
        out: Path,
        *,
        command: Sequence[str] = (),
        **environment: str,
    ) -> None:
        self._out = out
        told = json.dumps({"executor": executor, "options": options, "names": list(names)})
        self.process = subprocess.Popen(
            [*command, sys.executable, __file__, str(out)],
            stdin=subprocess.PIPE,
            env={**os.environ, **environment},
            text=True,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(told)  # not an argument: a URL is in it
        self.process.stdin.close()

    @property
    def pid(self) -> int:
        return self.process.pid

    async def ended(self) -> int:
        """Wait for its end, and return its exit code."""
        while self.process.poll() is None:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)
        return self.process.returncode

    def reports(self) -> list[dict[str, Any]]:
        """What it reported, in order."""
        return [json.loads(line) for line in self._out.read_text().splitlines()]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def replicas(*made: Replica) -> Iterator[None]:
    """Context manager: end them all at the end."""
    with ExitStack() as stack:
        for each in made:
            stack.callback(each.close)
        yield


async def _run(told: dict[str, Any], out: Path) -> None:
    async def names() -> AsyncIterator[str]:
        for name in told["names"]:
            yield name

    executor = load((told["executor"], told["options"]))
    with out.open("w") as file:
        async for report in executor.run(of_environment(), names()):
            print(json.dumps(report.to_dict()), file=file, flush=True)


if __name__ == "__main__":
    asyncio.run(_run(json.load(sys.stdin), Path(sys.argv[1])))

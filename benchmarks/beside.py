"""An idle process that looks for stalls too: what it finds, the machine is to blame for."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from stall import Stall


class Beside:
    """`with` one: `longest` is, after it, the longest stall of an idle event loop meanwhile."""

    def __init__(self) -> None:
        self.longest = 0.0

    def __enter__(self) -> Beside:
        command = [sys.executable, __file__]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.longest = float(self._process.communicate()[0])


async def until_told() -> float:
    told = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, told.set)
    async with Stall() as stall:
        await told.wait()
    return stall.longest


if __name__ == "__main__":
    print(asyncio.run(until_told()))

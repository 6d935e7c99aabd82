"""What the gate costs when the application serves, and how long a health check waits before that.

    python benchmarks/gate.py [--rounds 16] [--seconds 2] [--migration 30] [--write-docs]

Requests a second by wrk against an application and the same one behind the gate, under uvicorn in
one process, in turn; medians, and the median of the rounds' ratios. What the gate adds to a call,
without a server. And the longest time between two answers of `/livez` in a migration that burns the
processor, and then blocks in a driver.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import page
from support import alembic_projects, asgi_calls

from automigrator import Migrator, Target
from automigrator.asgi import Gate

FOLDER = Path(__file__).parent
HEAD = [
    "| application | requests a second, bare | behind the gate | **ratio** |",
    "|---|---|---|---|",
]
BURNS = "end = time.monotonic() + {0}\nwhile time.monotonic() < end:\n    sum(range(1000))"
BLOCKS = "import sqlite3\nop.get_bind().connection.driver_connection.create_function(\n"
BLOCKS += "    'nap', 1, time.sleep)\nop.execute('SELECT nap({0})')"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def served(environment: dict[str, str]) -> Iterator[tuple[int, int]]:
    """Context manager: both sides, once each of them answers; yields their ports."""
    bare, gated = free_port(), free_port()
    env = {**os.environ, **environment}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    process = subprocess.Popen(
        [sys.executable, "gate_side.py", str(bare), str(gated)], cwd=FOLDER, env=env
    )
    try:
        while not answers(gated, "/"):
            time.sleep(0.02)
        yield bare, gated
    finally:
        process.kill()
        process.wait()


def answers(port: int, path: str) -> int | None:
    """The status of an answer; None where nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with suppress(OSError):
        connection.request("GET", path)
        return connection.getresponse().status
    return None


def requests_a_second(port: int, seconds: int) -> float:
    command = ["wrk", "-t1", "-c16", f"-d{seconds}s", f"http://127.0.0.1:{port}/"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in text:
        raise SystemExit(f"not every answer was 200:\n{text}")
    (found,) = re.findall(r"Requests/sec:\s+([\d.]+)", text)
    return float(found)


def cost(kind: str, environment: dict[str, str], rounds: int, seconds: int) -> str:
    """One line of the table."""
    rates: dict[str, list[float]] = {"bare": [], "gated": []}
    with served({**environment, "KIND": kind}) as both:
        ports = dict(zip(rates, both, strict=True))
        for port in both:
            while answers(port, "/") != 200:
                time.sleep(0.05)
            requests_a_second(port, 1)
        for number in range(rounds):
            for name in sorted(ports, reverse=number % 2 == 1):  # neither is always the first
                rates[name].append(requests_a_second(ports[name], seconds))
    ratio = statistics.median(g / b for g, b in zip(rates["gated"], rates["bare"], strict=True))
    cells = [f"{statistics.median(each):,.0f}" for each in rates.values()]
    return f"| {kind} | {' | '.join(cells)} | **{ratio:.3f}** |"


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """The least that an application can do."""


async def call_ns(app: Any, calls: int = 200_000) -> float:
    """Nanoseconds that one call of an application takes."""
    scope = {"type": "http", "path": "/", "root_path": "", "headers": []}
    began = time.perf_counter_ns()
    for _ in range(calls):
        await app(scope, None, None)
    return (time.perf_counter_ns() - began) / calls


async def added_ns(environment: dict[str, str], rounds: int) -> float:
    """Nanoseconds that the gate adds to a call, when the application serves."""
    migrator = Migrator(Target(environment["URL"], environment["CONFIG"]), mode="migrate")
    async with asgi_calls.served(Gate(nothing, migrator)) as server:
        await server.ready()
        pairs = [(await call_ns(server.app), await call_ns(nothing)) for _ in range(rounds)]
    return statistics.median(gated - bare for gated, bare in pairs)


def longest_gap(environment: dict[str, str]) -> tuple[float, float]:
    """Seconds of a migration, and the longest of them without an answer of `/livez`."""
    with served({**environment, "KIND": "plain ASGI"}) as (_, port):
        began = last = time.monotonic()
        longest = 0.0
        while answers(port, "/readyz") == 503:
            if answers(port, "/livez") != 200:
                raise SystemExit("/livez did not answer 200")
            now = time.monotonic()
            longest, last = max(longest, now - last), now
        return last - began, longest


def environment_of(folder: Path, *upgrades: str) -> dict[str, str]:
    """An application's database and history, with a revision for each upgrade."""

    def revisions(versions: Path) -> None:
        for number, upgrade in enumerate(upgrades, 1):
            before = f"r{number - 1}" if number > 1 else None
            alembic_projects.revision(versions, f"r{number}", before, upgrade=upgrade)

    url = f"sqlite+aiosqlite:///{folder / 'app.db'}"
    project = alembic_projects.project(folder, "generic", url, revisions=revisions)
    return {"URL": url, "CONFIG": str(project.config)}


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=16)
    arguments.add_argument("--seconds", type=int, default=2, help="of each measurement")
    arguments.add_argument("--migration", type=int, default=30, help="seconds that it takes")
    arguments.add_argument("--write-docs", action="store_true")
    options = arguments.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed; Debian has it: apt install wrk")
    lines = list(HEAD)
    with tempfile.TemporaryDirectory() as root:
        at_head = environment_of(Path(root) / "at-head", "pass")
        for kind in ("plain ASGI", "FastAPI"):
            lines.append(cost(kind, at_head, options.rounds, options.seconds))
            print(lines[-1], flush=True)
        half = options.migration / 2
        slow = ["import time\n" + each.format(half) for each in (BURNS, BLOCKS)]
        took, gap = longest_gap(environment_of(Path(root) / "slow", *slow))
        added = asyncio.run(added_ns(environment_of(Path(root) / "called", "pass"), options.rounds))
    lines += [
        "",
        f"A call through the gate takes {added:.0f} ns longer than one without it.",
        "",
        f"A migration of {took:.0f} s, half of it in Python and half in the driver: between two "
        f"answers of `/livez` there were at most {gap * 1000:.0f} ms.",
        "",
        f"Python {platform.python_version()}, {os.cpu_count()} CPUs, {options.rounds} rounds of "
        f"{options.seconds} s, wrk with 16 connections.",
    ]
    found = "\n".join(lines)
    print(f"\n{found}")
    if options.write_docs:
        page.write("gate.md", found)


if __name__ == "__main__":
    main()

"""What the gate costs when the application serves, and how long a health check waits before that.

    python benchmarks/gate.py [--rounds 16] [--seconds 2] [--migration 30] [--write-docs]

Requests a second by wrk against the application and the application behind the gate, under uvicorn
in a process each, which are new for each round; medians, and the median of the rounds' ratios. Then
the longest time between two answers of `/livez` while a migration burns the processor, and while it
blocks in a driver.
"""

from __future__ import annotations

import argparse
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
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import page
from support import alembic_projects

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
def served(name: str, port: int, environment: dict[str, str]) -> Iterator[None]:
    """Context manager: one side under uvicorn, once it answers."""
    arguments = ["-m", "uvicorn", f"gate_side:{name}", "--port", str(port), "--no-access-log"]
    env = {**os.environ, **environment}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    process = subprocess.Popen(
        [sys.executable, *arguments, "--log-level", "critical"], cwd=FOLDER, env=env
    )
    try:
        while not answers(port, "/"):
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
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
    for number in range(rounds):
        # processes anew: two of the same program differ by several per cent
        ports = {name: free_port() for name in sorted(rates, reverse=number % 2 == 1)}
        with ExitStack() as stack:
            for name, port in ports.items():
                stack.enter_context(served(name, port, {**environment, "KIND": kind}))
                while answers(port, "/") != 200:
                    time.sleep(0.05)
                requests_a_second(port, 1)
            for name, port in ports.items():
                rates[name].append(requests_a_second(port, seconds))
    ratio = statistics.median(g / b for g, b in zip(rates["gated"], rates["bare"], strict=True))
    cells = [f"{statistics.median(each):,.0f}" for each in rates.values()]
    return f"| {kind} | {' | '.join(cells)} | **{ratio:.3f}** |"


def longest_gap(environment: dict[str, str]) -> tuple[float, float]:
    """Seconds of a migration, and the longest of them without an answer of `/livez`."""
    port = free_port()
    with served("gated", port, {**environment, "KIND": "plain ASGI"}):
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
    lines += [
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

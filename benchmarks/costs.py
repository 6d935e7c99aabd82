"""What an act costs: seconds on the wall, seconds of CPU."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
Cost = dict[str, float]


def cpu_s(server: int | None = None) -> float:
    """CPU of this process, its ended children, and a PostgreSQL server with all its processes."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used) + _server_s(server)


def queued_s() -> float:
    """How long the calling thread has waited for a CPU; 0 where the system does not say."""
    try:
        waited = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text()
    except FileNotFoundError:
        return 0.0
    return int(waited.split()[1]) / 1e9


def settle(megabytes: int) -> None:
    """Write out what others have written, and have the machine's memory at hand.

    A virtual machine may have to ask its host for memory that was not used for a while; who
    comes first would pay for it.
    """
    os.sync()
    touch = f"len(b'x' * {megabytes << 20})"
    subprocess.run([sys.executable, "-c", touch], check=True)


def plain(*commands: Sequence[str], server: int | None = None) -> Cost:
    """Run tools one after the other."""
    cpu, began = cpu_s(server), time.perf_counter()
    for command in commands:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {"wall": time.perf_counter() - began, "cpu": cpu_s(server) - cpu}


def _server_s(pid: int | None) -> float:
    if pid is None:
        return 0.0
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    alive = sum(sum(_times(child)[:2]) for child in children)
    return (alive + sum(_times(str(pid)))) / TICKS


def _times(pid: str) -> list[int]:
    """utime, stime, cutime and cstime, in ticks; none of a process that ended meanwhile."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except (FileNotFoundError, ProcessLookupError):
        return [0]
    return [int(each) for each in after_name.split()[11:15]]

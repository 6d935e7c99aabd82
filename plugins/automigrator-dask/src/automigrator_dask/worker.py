"""What runs on a Dask worker: one tenant a task, in an event loop that the process has for all."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any, TypeVar

from automigrator.errors import AutomigratorError
from automigrator.fleet.executors.agreement import agree, found, work_of
from automigrator.fleet.executors.contract import Bringing, Work
from automigrator.fleet.executors.outcomes import brought, written

T = TypeVar("T")

_lock, _finding = threading.Lock(), threading.Lock()
_loops: list[asyncio.AbstractEventLoop] = []
_fleets: dict[Work, Bringing] = {}
"""Those that agreed; a fleet has connections, which belong to the loop."""
_running: dict[str, set[Future[Any]]] = {}
"""By run: what is under way."""
_under_way = Counter[str]()
"""By run: how many have not ended; a Future that is cancelled is done before its task is."""
_stopped: set[str] = set()


def check(told: dict[str, str], name: str) -> str:
    """Find the fleet of a work; returns why this worker refuses it, or nothing."""
    try:
        work = work_of(told)
        with _finding:
            if work in _fleets:
                return ""
            fleet = found(work.source)
            _called(agree(fleet, work, name)).result()
            _fleets[work] = fleet
    except AutomigratorError as error:
        return str(error)
    return ""


def bring(told: dict[str, str], tenant: str, run: str) -> dict[str, str]:
    """Bring one tenant: `{"report": text}`, or `{"refused": why, "worker": address}`."""
    from distributed import get_worker

    address = get_worker().address
    if why := check(told, address):
        return {"refused": why, "worker": address}
    fleet = _fleets[work_of(told)]
    with _lock:
        if run in _stopped:
            return {"stopped": address}
        task = _called(_counted(run, brought(fleet, tenant, f"dask {address}")))
        _running.setdefault(run, set()).add(task)
    try:
        return {"report": written(task.result())}
    except CancelledError:
        return {"stopped": address}
    finally:
        with _lock:
            _running[run].discard(task)
            if not _running[run]:
                del _running[run]


def stop(run: str, limit_s: float) -> None:
    """Stop the statements of a run, and begin no further tenant of it."""
    with _lock:
        _stopped.add(run)
        tasks = set(_running.get(run, ()))
    for each in tasks:
        each.cancel()
    _called(_ended(run, limit_s)).result()
    for fleet in _fleets.values():
        _called(fleet.aclose()).result()


async def _ended(run: str, limit_s: float) -> None:
    """Wait until what was cancelled has stopped its statements."""
    with suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            while _under_way[run]:  # noqa: ASYNC110 - it is seldom asked
                await asyncio.sleep(0.02)


async def _counted(run: str, work: Coroutine[Any, Any, T]) -> T:
    _under_way[run] += 1
    try:
        return await work
    finally:
        _under_way[run] -= 1


def _called(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Run in the loop of this process."""
    if not _loops:
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name="automigrator", daemon=True).start()
        _loops.append(loop)
    return asyncio.run_coroutine_threadsafe(work, _loops[0])

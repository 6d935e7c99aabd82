"""One side of the fleets' benchmark, in a fresh process; prints what it cost as JSON.

    python benchmarks/fleet_side.py loop|migrator|cohort|together|idle|add KIND INI URLS

`URLS` is a JSON file: each tenant's name and URL.

Everything is imported, and one connection was made, before the clock starts.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import statistics
import sys
import time
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Pool, event

from automigrator import Migrator, Target
from automigrator.cohort import Cohort
from automigrator.fleet import Fleet
from automigrator.runner import pipeline  # noqa: F401 - what the first run imports

AT_ONCE = 4


def loop(ini: str, tenants: dict[str, str]) -> None:
    for url in tenants.values():
        config = Config(ini)
        config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
        command.upgrade(config, "head")


def target(kind: str, ini: str, name: str, url: str) -> Target:
    # a schema each: so it has a lock and records of its own
    schema = name if kind == "schemas" else None
    return Target(url, ini, name=name, version_table_schema=schema)


async def one_by_one(targets: list[Target], cohort: Cohort | None) -> None:
    for each in targets:
        migrator = Migrator(each, mode="migrate", announce=False)
        report = await (migrator.run() if cohort is None else cohort.run(migrator))
        assert report.outcome == "migrated", report


async def together(targets: list[Target], cohort: Cohort) -> None:
    left = iter(targets)

    async def work() -> None:
        for each in left:
            await one_by_one([each], cohort)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


async def added(targets: list[Target]) -> dict[str, float]:
    """Sign up one tenant after the other; the first makes the template."""
    fleet, seconds = Fleet([]), []
    for each in targets:
        began = time.perf_counter()
        report = await fleet.add(each)
        seconds.append(time.perf_counter() - began)
        assert report.at_head, report
    return {"template": seconds[0], "each": statistics.median(seconds[1:])}


async def main(side: str, kind: str, ini: str, tenants: dict[str, str]) -> dict[str, float]:
    opened: list[object] = []
    event.listen(Pool, "connect", lambda *_: opened.append(1))
    targets = [target(kind, ini, name, url) for name, url in tenants.items()]
    if side == "add":
        return await added(targets)
    began, cpu = time.perf_counter(), time.process_time()
    if side == "loop":
        await asyncio.to_thread(loop, ini, tenants)
    elif side == "migrator":
        await one_by_one(targets, None)
    else:
        async with Cohort() as cohort:
            if side == "idle":
                assert await cohort.lacking(targets) == ()
            elif side == "cohort":
                await one_by_one(targets, cohort)
            else:
                await together(targets, cohort)
    return {
        "wall": time.perf_counter() - began,
        "cpu": time.process_time() - cpu,
        "connections": len(opened),
        "memory_kb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


if __name__ == "__main__":
    side, kind, ini, urls = sys.argv[1:]
    logging.basicConfig(level=logging.WARNING)
    tenants = json.loads(Path(urls).read_text())
    print(json.dumps(asyncio.run(main(side, kind, ini, tenants))))

"""One start in a fresh process that applies what is pending; prints what it cost as JSON.

    python benchmarks/applying_side.py ours|alembic URL INI

The application has made its engine, so that SQLAlchemy and the driver of that URL are imported on
both sides before the clock starts. Both log what they apply, as Alembic's stock ini has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import sys
import time

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

Cost = dict[str, float]


class Clock:
    """Seconds on the wall and of this process's CPU since it was made."""

    def __init__(self) -> None:
        gc.collect()
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> Cost:
        return {
            "wall": time.perf_counter() - self._wall,
            "cpu": time.process_time() - self._cpu,
        }


async def ours(engine: AsyncEngine, ini: str) -> Cost:
    with open(os.devnull, "w") as nowhere:  # noqa: ASYNC230
        logging.basicConfig(level=logging.INFO, stream=nowhere)
        clock = Clock()
        from automigrator import Migrator, Target

        report = await Migrator(Target(engine, ini), mode="migrate").run()
        cost = clock.read()
    assert report.outcome == "migrated", report
    await engine.dispose()
    return cost


def alembic(ini: str) -> Cost:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        clock = Clock()
        from alembic.config import main

        main(["-c", ini, "upgrade", "head"])
        return clock.read()


if __name__ == "__main__":
    side, url, ini = sys.argv[1:]
    engine = create_async_engine(url)
    print(json.dumps(asyncio.run(ours(engine, ini)) if side == "ours" else alembic(ini)))

"""One history of a real application, migrated in a fresh process; prints how long the loop stood.

    python benchmarks/stalls_side.py ours|thread HISTORY URL FOLDER

`thread` is Alembic's own command in `asyncio.to_thread`. Alembic is imported on both sides before
the clock starts, as the application's configuration is one of its objects.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import page
from costs import queued_s
from stall import Stall

sys.path.insert(0, str(page.ROOT / "tests"))

from alembic import command
from histories.applications import APPLICATIONS, Application
from support import alembic_projects

from automigrator import Migrator, Target


async def ours(application: Application, url: str, folder: Path) -> Stall:
    config = application.config(alembic_projects.with_sync_driver(url), folder)
    target = Target(url, config, revision=application.revision, baseline=application.baseline)
    async with Stall(queued_s) as stall:
        report = await Migrator(target, mode="migrate").run()
    assert report.outcome == "migrated", report
    return stall


async def thread(application: Application, url: str, folder: Path) -> Stall:
    config = application.config(alembic_projects.with_sync_driver(url), folder)
    async with Stall(queued_s) as stall:
        await asyncio.to_thread(command.upgrade, config, application.revision)
    return stall


if __name__ == "__main__":
    side, name, url, folder = sys.argv[1:]
    (application,) = (each for each in APPLICATIONS if str(each) == name)
    stall = asyncio.run({"ours": ours, "thread": thread}[side](application, url, Path(folder)))
    print(json.dumps({"stall": stall.longest, "blocked": stall.blocked}))

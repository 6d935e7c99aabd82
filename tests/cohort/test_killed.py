"""A process that is killed while it holds the locks of several tenants."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.alembic_projects import revision
from support.tenants import Tenants, brought

from automigrator.cohort import Cohort

NAMES = ("a", "b", "c")
SLOW = """
import pathlib
op.create_table("half", sa.Column("id", sa.Integer, primary_key=True))
if pathlib.Path(__file__).with_name("slow").exists():
    op.execute("select pg_sleep(60)")
"""
PROCESS = """
import asyncio, json, pathlib, sys
from automigrator import Migrator, Target
from automigrator.cohort import Cohort

first, *others = json.loads(sys.argv[1])

async def main():
    async with Cohort() as cohort:
        def run(name, url):
            target = Target(url, sys.argv[2], name=name, version_table_schema=name)
            return cohort.run(Migrator(target, mode="migrate", announce=False))

        await run(*first)
        pathlib.Path(sys.argv[3]).touch()
        await asyncio.gather(*(run(*each) for each in others))

asyncio.run(main())
"""
HELD = """
select count(*) from pg_locks where locktype = 'advisory' and mode = 'ExclusiveLock' and granted
"""
ASLEEP = "select count(*) from pg_stat_activity where query like '%pg_sleep(60)%' and pid <> "
ASLEEP += "pg_backend_pid() and state = 'active'"


def revisions(folder: Path) -> None:
    revision(folder, "r1", None, upgrade="pass")
    revision(folder, "r2", "r1", upgrade=SLOW)


@pytest.mark.long
async def test_the_next_start_ends_what_it_left_and_brings_each_to_head(
    tmp_path: Path, postgres_url: str
) -> None:
    tenants = Tenants(tmp_path, postgres_url, revisions)
    targets = [tenants.schema(name) for name in ("first", *NAMES)]
    slow = tenants.versions / "slow"
    pairs = [(each.name, each.application_url.render_as_string(False)) for each in targets]
    command = [sys.executable, "-c", PROCESS, json.dumps(pairs), str(tenants.config), str(slow)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: ASYNC220
    try:
        async with asyncio.timeout(60):
            while tenants.execute(HELD) < [(3,)] or tenants.execute(ASLEEP) == [(0,)]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert tenants.heads("first") == {"r2"}
    slow.unlink()
    async with Cohort() as cohort:
        for target in targets[1:]:
            assert (await brought(cohort, target)).outcome == "migrated"
            assert tenants.heads(target.name) == {"r2"}
            assert tenants.tables(target.name) == {"half"}
    assert tenants.execute(ASLEEP) == [(0,)]
    left = "select count(*) from pg_type t join pg_namespace n on n.oid = t.typnamespace "
    left += "where n.nspname = 'automigrator' and typname like 'last%'"
    assert tenants.execute(left) == [(0,)]

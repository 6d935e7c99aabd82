"""Replicas of a fleet that are killed at random: no tenant is lost, none is half migrated."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import fleets
from support.alembic_projects import contents, heads
from support.fleets import in_process

from automigrator.fleet import Fleet, files, schemas

KILLS = 12

pytestmark = pytest.mark.long


async def killed_at_random(begin: Callable[[], Any]) -> int:
    """Two replicas at a time, of which each is killed; returns how many were at work by then."""
    chance = random.Random(os.environ.get("AUTOMIGRATOR_SEED"))
    killed = 0
    for _ in range(KILLS):
        replicas = [begin() for _ in range(2)]
        await asyncio.sleep(chance.uniform(0.2, 1.5))
        for each in replicas:
            if each.is_alive():
                os.kill(each.pid, signal.SIGKILL)
                killed += 1
            each.join()
    return killed


async def test_files(folder: Path, ini: Path, control: str) -> None:
    fleets.deploy(ini, "r4", "r3", "import time; time.sleep(0.05)")
    names = [f"t{number:02}" for number in range(60)]
    fleets.with_files(folder, names)
    failing = {name: folder / f"{name}.db" for name in names[::20]}
    for file in failing.values():
        fleets.spoil(file)
    before = {name: contents(f"sqlite:///{file}") for name, file in failing.items()}

    killed = await killed_at_random(lambda: in_process(fleets.run_files, folder, ini, control))
    assert killed > KILLS / 2
    report = await Fleet(files(folder, ini), mode="migrate", control=control).run()
    for each in report:
        url = f"sqlite:///{folder / each.name}.db"
        if each.name in failing:
            assert each.outcome in ("failed", "quarantined"), str(report)
            assert contents(url) == before[each.name]
        else:
            assert each.at_head and heads(url) == {"r4"}, str(report)
            assert set(contents(url)) == {"alembic_version", "users", "posts"}


async def test_schemas(empty_databases: Any, tmp_path: Path, control: str) -> None:
    ini = fleets.schema_history(tmp_path)
    names = [f"t{number:02}" for number in range(30)]
    failing = names[::10]
    with empty_databases.lent() as url:
        database = url.rpartition("/")[2]
        with fleets.with_schemas(empty_databases.server, database, names):
            for name in failing:
                empty_databases.server.execute(
                    f"create table {name}.users (id integer)", database=database
                )
            begin = lambda: in_process(fleets.run_schemas, url, ini, control)  # noqa: E731
            killed = await killed_at_random(begin)
            assert killed > KILLS / 2
            source = schemas(url, ini, like="t%", x=["tenant={schema}"])
            report = await Fleet(source, mode="migrate", control=control).run()
            made = {"alembic_version", "users", "posts"}
            found = set(contents(url))
            for each in report:
                own = {name.partition(".")[2] for name in found if name.startswith(f"{each.name}.")}
                if each.name in failing:
                    assert each.outcome in ("failed", "quarantined"), str(report)
                    assert own - {"alembic_version"} == {"users"}
                else:
                    assert each.at_head and own == made, str(report)
                    assert heads(url, f"{each.name}.alembic_version") == {"r3"}

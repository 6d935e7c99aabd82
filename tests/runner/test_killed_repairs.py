"""Kills in the middle of a repair are counted, and the one too many is not begun."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from compatibility.applications import HALF_WAY, Deployed
from compatibility.release import Release
from sqlalchemy import make_url
from support import alembic_projects
from support.notes_application import ROWS

from automigrator import Migrator
from automigrator.backends.sqlite.companions import progress_path

pytestmark = [
    pytest.mark.plugins,
    pytest.mark.skipif(shutil.which("pg_dump") is None, reason="no PostgreSQL client programs"),
    pytest.mark.long(
        "template", "dump", "tried_anew", "another_deployment", "only_fails", "day_later"
    ),
]

MOMENTS = {
    "sqlite": ("event repair-started", "sql BEGIN EXCLUSIVE"),
    "template": ("event repair-started", "sql ALTER DATABASE .*_side_"),
    "dump": ("event repair-started", "fsync"),
}
DIES = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"


def killed_in_repairs(new: Release, app: Deployed, times: int) -> None:
    app.deploy(HALF_WAY + DIES)
    new.killed(app.start_with(app.backup()))
    again(new, app, times)


def again(new: Release, app: Deployed, times: int) -> None:
    for _ in range(times):
        new.killed(app.start_with(dies_at=MOMENTS[app.copy], max_failed_starts=2))


@pytest.mark.parametrize("app", ["sqlite", "template"], indirect=True)
def test_after_so_many_kills_it_is_refused_with_words_and_the_way_to_do_it_by_hand(
    new: Release, app: Deployed
) -> None:
    killed_in_repairs(new, app, 2)
    (copy,) = app.copies()

    ended = new.run(app.start_with("log-and-continue", max_failed_starts=2, allow_partial=True))

    assert ended.outcome == "failed"
    told = str(ended)
    assert "2 starts in a row were killed while" in told and copy in told
    assert "To restore it by hand" in told and "migrator.clear()" in told
    by_hand(app, copy, told)
    app.mended()
    assert new.run(app.start_with(max_failed_starts=2)).outcome == "migrated"
    assert app.notes() == ROWS


def by_hand(app: Deployed, copy: str, told: str) -> None:
    """Do what the message says."""
    name = str(make_url(app.url).database)
    if app.copy == "sqlite":
        for each in Path(name).parent.glob(f"{Path(name).name}*"):
            if each.name.removeprefix(Path(name).name) in ("", "-journal", "-wal", "-shm"):
                each.rename(each.with_name(f"away-{each.name}"))
        shutil.copy(copy, name)
        Path(f"{name}.automigrator-journal.json").unlink()
        return
    server = make_url(app.url).set(drivername="postgresql", database="postgres")
    statements = (
        f'ALTER DATABASE "{name}" RENAME TO "{name}_replaced"',
        f'ALTER DATABASE "{copy}" RENAME TO "{name}"',
        f'COMMENT ON DATABASE "{name}" IS NULL',
    )
    assert "; ".join(statements) in told
    commands = [part for statement in statements for part in ("-c", statement)]
    plain = server.render_as_string(hide_password=False)
    subprocess.run(["psql", "-v", "ON_ERROR_STOP=1", plain, *commands], check=True)


@pytest.mark.parametrize("app", ["sqlite", "template"], indirect=True)
def test_another_deployment_is_not_held_to_the_count_of_an_older_one(
    new: Release, app: Deployed
) -> None:
    killed_in_repairs(new, app, 2)
    app.mended()
    ended = new.run(app.start_with(max_failed_starts=2))
    assert (ended.outcome, app.notes()) == ("migrated", ROWS)


@pytest.mark.parametrize("app", ["sqlite", "template"], indirect=True)
def test_clear_lets_it_be_tried_anew(new: Release, app: Deployed) -> None:
    killed_in_repairs(new, app, 2)
    asyncio.run(Migrator(app.target()).clear())
    again(new, app, 2)
    assert new.run(app.start_with(max_failed_starts=2)).outcome == "failed"


@pytest.mark.parametrize("app", ["dump"], indirect=True)
def test_those_of_a_dump_are_as_well(new: Release, app: Deployed) -> None:
    killed_in_repairs(new, app, 2)
    told = str(new.run(app.start_with(max_failed_starts=2)))
    assert "2 starts in a row were killed" in told and "pg_restore --exit-on-error" in told
    asyncio.run(Migrator(app.target()).clear())
    app.mended()
    assert new.run(app.start_with()).outcome == "migrated"
    assert app.notes() == ROWS


@pytest.mark.parametrize("app", ["sqlite"], indirect=True)
def test_a_repair_that_only_fails_is_not_counted(new: Release, app: Deployed) -> None:
    killed_in_repairs(new, app, 1)
    (copy,) = app.copies()
    shutil.move(copy, f"{copy}.elsewhere")
    for _ in range(3):
        ended = new.run(app.start_with(max_failed_starts=2))
        assert "it is gone" in str(ended)
    shutil.move(f"{copy}.elsewhere", copy)
    progress = json.loads(progress_path(Path(str(make_url(app.url).database))).read_bytes())
    assert progress["repairs"]["count"] == 1


@pytest.mark.parametrize("app", ["sqlite"], indirect=True)
def test_a_day_later_it_is_tried_once_more(new: Release, app: Deployed) -> None:
    killed_in_repairs(new, app, 2)
    place = progress_path(Path(str(make_url(app.url).database)))
    progress = json.loads(place.read_bytes())
    progress["repairs"]["last"] -= 25 * 60 * 60
    place.write_text(json.dumps(progress))
    again(new, app, 1)
    assert "3 starts in a row were killed" in str(new.run(app.start_with(max_failed_starts=2)))
    assert alembic_projects.heads(app.url) == {"r1"}

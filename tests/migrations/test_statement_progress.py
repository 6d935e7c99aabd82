"""While a statement takes long, what the server says of it is told: an event, a line, a beat."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.notes_application import Application

from automigrator import Migrator
from automigrator.backends.postgresql.locking import progress
from automigrator.events.activity import Activity
from automigrator.events.catalogue import CATALOGUE
from automigrator.migrations import watchdog

SLOW = """
op.execute(
    "create function slow(n int) returns int immutable language plpgsql as "
    "'begin perform pg_catalog.pg_sleep(0.01); return n; end'"
)
op.execute("create table numbers as select generate_series(1, 80) as n")
op.execute("create index on numbers (slow(n))")
"""


UNTIL_TOLD = """
import pathlib, time
for _ in range(500):
    if ", \\"progress\\": \\"2/2 r3\\"" in pathlib.Path("{file}").read_text():
        break
    time.sleep(0.01)
else:
    raise RuntimeError("the lock's file does not say 2/2 r3")
"""
"""Both revisions begin within the time in which only the first one is told at once."""


@pytest.fixture
def application(tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Application:
    monkeypatch.setattr(watchdog, "PROGRESS_S", 0.1)
    application = Application(tmp_path, postgres_url)
    application.deploy(SLOW)
    return application


async def test_the_server_says_how_far_an_index_is(application: Application) -> None:
    migrator = Migrator(application.target(), mode="migrate")
    events = migrator.events()
    assert (await migrator.run()).outcome == "migrated"
    told = [event.data async for event in events if event.name == "progress"]
    assert told and {each["phase"] for each in told} <= {
        "CREATE INDEX: initializing",
        "CREATE INDEX: building index",
        "CREATE INDEX: building index: scanning table",
        "CREATE INDEX: building index: loading tuples in tree",
    }
    assert all(0 <= each["done"] <= each["total"] for each in told)


async def test_a_question_that_fails_disturbs_nothing_and_is_not_repeated(
    application: Application, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = {"pg_stat_progress_create_index": progress._View("1 / 0 || ''", "0", "0")}
    monkeypatch.setattr(progress, "_VIEWS", wrong)
    with caplog.at_level(logging.DEBUG, "automigrator"):
        report = await Migrator(application.target(), mode="migrate").run()
    assert report.outcome == "migrated"
    assert caplog.text.count("how far the statement is: ") == 1


async def test_those_who_wait_learn_which_revision_takes_long(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "PROGRESS_S", 0.01)
    application = Application(tmp_path, sqlite_url)
    application.deploy("pass", UNTIL_TOLD.format(file=tmp_path / "app.db.automigrator-lock"))
    await Migrator(application.target(), mode="migrate").run()


@pytest.mark.parametrize(("acts", "lost"), [(1, ""), (0, "gone")])
async def test_a_session_that_is_busy_or_lost_is_not_asked(acts: int, lost: str) -> None:
    hold: Any = SimpleNamespace(acts=acts, lost=lost)
    assert await progress.ProgressReader().read(hold) is None


def test_the_line_shows_it_until_it_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    activity = Activity()
    started = {"revision": "r3", "index": 3, "total": 7}
    activity.follow(CATALOGUE["revision-started"], "app", started)
    activity.enter("app", "running env.py")
    said = {"phase": "CREATE INDEX: building index", "done": 45, "total": 100}
    activity.follow(CATALOGUE["progress"], "app", said)
    line = "app: revision 3 of 7, 0 s: r3, CREATE INDEX: building index, 45 %"
    assert str(activity) == line
    assert (
        activity.so_far
        == "app: revision 3 of 7, r3, CREATE INDEX: building index, 45 %, 0 s so far"
    )
    monkeypatch.setattr("automigrator.events.activity.PROGRESS_S", 0.0)
    assert str(activity) == "app: revision 3 of 7, 0 s: r3"

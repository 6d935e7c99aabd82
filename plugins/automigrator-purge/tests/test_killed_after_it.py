"""A purge is told by the next start where the process was killed before it could tell."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from support.notes_application import ROWS, UNIQUE, Application

from automigrator import Migrator

pytestmark = pytest.mark.long("[postgresql", "decided", "since_stays[sqlite")

_KILLED = """
import asyncio, os, signal, sys
from automigrator import Migrator, Target, hookimpl

class Killer:
    @hookimpl
    def on_event(self, event):
        if event.name == sys.argv[3]:
            os.kill(os.getpid(), signal.SIGKILL)

strategy = ("purge", {"set_aside": sys.argv[4] == "True"})
target = Target(sys.argv[1], sys.argv[2])
asyncio.run(Migrator(target, mode="migrate", recovery=[strategy], plugins=[Killer()]).run())
"""


def killed_at(event: str, application: Application, set_aside: bool) -> None:
    command = [sys.executable, "-c", _KILLED, application.url, str(application.config)]
    done = subprocess.run([*command, event, str(set_aside)], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.long("sqlite-True")
@pytest.mark.parametrize("event", ["recreated", "decided"])
@pytest.mark.parametrize("set_aside", [True, False])
def test_what_a_purge_has_replaced_is_told_by_the_next_start(
    event: str, set_aside: bool, notes: Application
) -> None:
    notes.deploy(UNIQUE)
    killed_at(event, notes, set_aside)
    assert notes.heads == {"r2"} and notes.notes() == []

    (report,) = Migrator(notes.target(), mode="migrate").run_sync().targets

    assert (report.outcome, report.after, report.failures) == ("recovered", ("r2",), ())
    (note,) = report.notes
    assert "a fresh database has taken the place of the old one" in note
    sqlite = "sqlite" in notes.url
    assert ("the old data is in " in note) == (set_aside or not sqlite)
    if "the old data is in " in note:
        assert notes.notes(note.rpartition("the old data is in ")[2]) == ROWS
    else:
        assert "no copy of the old data is left" in note
    assert Migrator(notes.target(), mode="migrate").run_sync().outcome == "current"


def test_what_the_application_has_written_since_stays(notes: Application) -> None:
    """The journal of a purge never puts anything back."""
    notes.deploy(UNIQUE)
    killed_at("recreated", notes, set_aside=True)
    notes.execute("INSERT INTO notes VALUES (7, 'since')")

    assert Migrator(notes.target(), mode="migrate").run_sync().outcome == "recovered"

    assert notes.notes() == [(7, "since")]


def test_the_purge_that_was_not_killed_is_told_once(notes: Application) -> None:
    notes.deploy(UNIQUE)
    migrator = Migrator(notes.target(), mode="migrate", recovery=["purge"])

    (report,) = migrator.run_sync().targets

    assert report.outcome == "recovered"
    assert len(report.notes) == 1 and report.notes[0].startswith("purged after ")
    assert Migrator(notes.target(), mode="migrate").run_sync().outcome == "current"

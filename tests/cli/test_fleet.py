"""The commands about a fleet, at pipes: what they print, what they do, how they end."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from support import fleets
from support.alembic_projects import heads
from support.terminal import Shell

APPLICATION = """
from automigrator import Migrator, Target
from automigrator.fleet import Fleet, files

def fleet():
    return Fleet(files("tenants", "project/alembic.ini"), {options})

migrator = Migrator(Target("sqlite+aiosqlite:///app.db", "project/alembic.ini"))
"""


class Application:
    """A folder with three tenants, and the command called there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ini = folder, fleets.history(folder)
        self.tenants = fleets.with_files(folder / "tenants", ["acme", "beta", "corp"])
        self.automigrator = Shell(folder, {"AUTOMIGRATOR_FLEET": "app:fleet"})
        self.configure('control="sqlite+aiosqlite:///control.sqlite"')

    def configure(self, options: str) -> None:
        (self.folder / "app.py").write_text(APPLICATION.format(options=options), "utf-8")

    def heads(self, name: str) -> set[str]:
        return heads(f"sqlite+aiosqlite:///{self.tenants / name}.db")


@pytest.fixture
def application(tmp_path: Path) -> Application:
    return Application(tmp_path)


def test_a_rollout_at_the_command_line(application: Application) -> None:
    automigrator = application.automigrator
    fleets.spoil(application.tenants / "beta.db")

    answer = automigrator("fleet", "check")
    assert answer.code == 3, answer
    assert answer.out.startswith("3 tenants: 3 pending\n  2 at base, 3 pending to r3: r1, r2, r3")

    answer = automigrator("fleet", "plan")
    assert (answer.code, "1 tenants: r1 -> r3 (beta)" in answer.out) == (0, True)
    assert application.heads("acme") == set()

    answer = automigrator("fleet", "run", RUN_MIGRATIONS="0")
    assert answer.code == 5 and application.heads("acme") == {"r3"}
    assert "fleet: failed; 2 migrated, 1 failed in" in answer.out
    assert "what to do: " in answer.out and "Traceback" not in answer.err
    assert "beta: failed, revision: OperationalError: table posts already exists" in answer.err

    answer = automigrator("fleet", "status")
    assert answer.code == 0, answer
    assert answer.out.startswith("3 tenants: 2 done, 1 quarantined\n  quarantined: beta: revision")

    answer = automigrator("fleet", "run")
    assert (answer.code, "quarantined, and not tried: beta" in answer.out) == (4, True)

    fleets.mend(application.tenants / "beta.db")
    answer = automigrator("fleet", "retry", "beta", "corp")
    assert answer.out == ("beta: the next run tries it again\ncorp: it was in no quarantine\n")
    answer = automigrator("fleet", "run", "--json")
    assert answer.code == 0 and answer.document["result"]["counts"] == {
        "current": 2,
        "migrated": 1,
    }
    assert automigrator("fleet", "check").code == 0


def test_an_operator_keeps_a_tenant_out(application: Application) -> None:
    automigrator = application.automigrator
    assert automigrator("fleet", "quarantine").out == "no tenant is in quarantine\n"
    answer = automigrator("fleet", "quarantine", "corp")
    assert answer.out == "corp: ordered by an operator\n"
    assert automigrator("fleet", "run").code == 4 and application.heads("corp") == set()
    answer = automigrator("fleet", "retry", "--all")
    assert answer.code == 2 and "Add --yes" in answer.err
    answer = automigrator("fleet", "retry", "--all", "--yes")
    assert answer.out == "corp: the next run tries it again\n"
    answer = automigrator("fleet", "quarantine", "crop")
    assert answer.code == 2 and "the fleet has no tenant 'crop'" in answer.err


def test_another_process_pauses_and_resumes(application: Application) -> None:
    automigrator = application.automigrator
    assert automigrator("fleet", "pause").out.startswith("paused: ")
    running = automigrator.begun("fleet", "run")
    running.wait_for("paused")
    assert "paused, and no further tenant" in automigrator("fleet", "status").out
    assert application.heads("acme") == set()
    assert automigrator("fleet", "resume").out == "resumed\n"
    assert running.ended().code == 0 and application.heads("acme") == {"r3"}


def test_each_command_answers_in_json(application: Application) -> None:
    def answer(*words: str) -> Any:
        ended = application.automigrator("fleet", *words, "--json")
        return ended.document["result"]  # which is as the schema says

    fleets.spoil(application.tenants / "beta.db")
    assert answer("check")["counts"] == {"pending": 3}
    assert [each["tenants"] for each in answer("plan")["groups"]] == [["acme", "corp"], ["beta"]]
    assert answer("pause") == {"paused": True}
    assert answer("resume") == {"paused": False}
    assert answer("run")["counts"] == {"migrated": 2, "failed": 1}
    assert answer("status")["counts"] == {"done": 2, "quarantined": 1}
    assert list(answer("quarantine")["quarantined"]) == ["beta"]
    assert answer("retry", "beta") == {"released": ["beta"]}


def test_a_run_that_is_stopped_says_how_far_it_came(application: Application) -> None:
    automigrator = application.automigrator
    automigrator("fleet", "pause")
    running = automigrator.begun("fleet", "run")
    running.wait_for("paused")
    running.signal(signal.SIGTERM)
    answer = running.ended()
    assert answer.code == 143
    assert "0 of 3 tenants were done; the next run goes on with the others" in answer.err
    answer = automigrator("fleet", "run", "--timeout", "0.5")
    assert answer.code == 5 and "took longer than --timeout 0.5" in answer.err


def test_too_many_failures_end_it_with_the_report(application: Application) -> None:
    application.configure("max_failures=0, concurrency=1")
    fleets.spoil(application.tenants / "acme.db")
    answer = application.automigrator("fleet", "run", "--json")
    assert (answer.code, answer.document["error"]["type"]) == (5, "FleetError")
    assert answer.document["result"]["counts"] == {"not-run": 2, "failed": 1}


def test_what_a_ledger_is_needed_for_says_so(application: Application) -> None:
    application.configure("")
    for command in ("status", "pause", "resume", "quarantine"):
        answer = application.automigrator("fleet", command)
        assert answer.code == 2 and "Fleet(control=...)" in answer.err
    assert application.automigrator("fleet", "retry").code == 2


class TestWhereTheFleetComesFrom:
    def test_a_migrator_is_no_fleet(self, application: Application) -> None:
        answer = application.automigrator("fleet", "check", "--app", "app:migrator")
        assert answer.code == 2
        assert "is of the type Migrator, and should be a Fleet, or a function" in answer.err

    def test_a_pyproject_names_both(self, application: Application) -> None:
        text = '[tool.automigrator]\napp = "app:migrator"\nfleet = "app:fleet"\n'
        (application.folder / "pyproject.toml").write_text(text)
        (application.folder / "pyproject.toml").chmod(0o644)
        application.folder.chmod(0o700)
        shell = Shell(application.folder)
        assert shell("fleet", "check").code == 3
        assert shell("check").code == 3

    def test_without_one_it_says_how_to_name_it(self, application: Application) -> None:
        answer = Shell(application.folder)("fleet", "check")
        assert answer.code == 2 and "--app package.module:fleet" in answer.err

    @pytest.mark.parametrize(
        "option", [("--url", "sqlite:///a.db"), ("--target", "acme"), ("-x", "a=b")]
    )
    def test_options_of_one_database_are_refused(
        self, option: tuple[str, str], application: Application
    ) -> None:
        answer = application.automigrator("fleet", "run", *option)
        assert answer.code == 2 and f"drop {option[0]}" in answer.err
        assert application.heads("acme") == set()

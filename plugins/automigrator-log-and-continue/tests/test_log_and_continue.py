"""One critical record says what a person needs; the application starts where that is allowed."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from automigrator_log_and_continue.strategy import at_risk
from support.notes_application import BROKEN, GOOD, HALF_WAY, ROWS, UNIQUE, Application

from automigrator import Failure, MigrationError, Migrator, PluginError

pytestmark = pytest.mark.long("[postgresql")


def critical(caplog: pytest.LogCaptureFixture) -> logging.LogRecord:
    (record,) = [each for each in caplog.records if each.levelno == logging.CRITICAL]
    return record


async def test_the_application_starts_on_the_old_schema_and_one_record_says_so(
    notes: Application, caplog: pytest.LogCaptureFixture
) -> None:
    notes.deploy(GOOD, BROKEN)
    (report,) = (await notes.start("log-and-continue")).targets
    assert (report.outcome, report.after, report.attempts) == ("degraded", ("r1",), 1)
    assert notes.notes() == ROWS
    text = critical(caplog).getMessage()
    for part in (
        f"{report.name} could not be migrated",
        "what failed: revision in revision r3: ",
        "what is at risk: the database is at r1, the code expects r3",
    ):
        assert part in text


async def test_the_rest_is_told_once_by_the_report_that_follows(
    notes: Application, caplog: pytest.LogCaptureFixture
) -> None:
    notes.deploy(BROKEN)
    with caplog.at_level(logging.INFO, "automigrator"):
        await notes.start("log-and-continue")
    for part in ("statement: SELECT * FROM absent", "state: clean (", "what to do: "):
        assert caplog.text.count(part) == 1, caplog.text
    assert "what to do: " in caplog.records[-1].getMessage()


@pytest.mark.long
async def test_the_record_holds_the_same_for_a_machine(
    notes: Application, caplog: pytest.LogCaptureFixture
) -> None:
    notes.deploy(BROKEN)
    await notes.start("log-and-continue")
    record = critical(caplog)
    assert record.name == "automigrator.log_and_continue"
    data: dict[str, Any] = json.loads(json.dumps(vars(record)["automigrator"]))
    assert (data["event"], len(data["run"])) == ("log-and-continue", 16)
    assert data["target"] == notes.target().name
    assert data["database"] in notes.url
    assert (data["state"], data["heads_before"], data["heads_wanted"]) == ("clean", ["r1"], ["r2"])
    assert data["failure"]["kind"] == "revision"
    assert data["at_risk"] in record.getMessage()


async def test_the_parameters_of_a_statement_are_not_told(
    notes: Application, caplog: pytest.LogCaptureFixture
) -> None:
    statement = 'sa.text("INSERT INTO absent VALUES (:x)")'
    notes.deploy(f'op.get_bind().execute({statement}, {{"x": "hunter2"}})')
    await notes.start("log-and-continue")
    data = vars(critical(caplog))["automigrator"]
    assert "INSERT INTO absent" in data["failure"]["statement"]
    assert "hunter2" not in caplog.text + str(vars(critical(caplog)))


async def test_a_database_that_is_not_there_does_not_keep_the_application_from_starting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    application = Application(
        tmp_path, f"sqlite+aiosqlite:///{tmp_path / 'absent.db'}", started=False
    )
    target = application.target(create=False)
    report = await Migrator(target, mode="migrate", recovery=["log-and-continue"]).run()
    assert report.outcome == "degraded"
    assert "unreachable" in critical(caplog).getMessage()
    assert not (tmp_path / "absent.db").exists()


async def test_on_a_half_migrated_database_it_is_followed_only_where_that_is_allowed(
    notes: Application, caplog: pytest.LogCaptureFixture
) -> None:
    notes.deploy(HALF_WAY)
    with pytest.raises(MigrationError) as info:
        await notes.start("log-and-continue")
    assert any("allow_partial=True" in note for note in info.value.report.targets[0].notes)
    assert "half way from r1 to r2" in critical(caplog).getMessage()
    report = await notes.start("log-and-continue", allow_partial=True)
    assert report.outcome == "degraded"


@pytest.mark.long
async def test_a_failed_target_does_not_keep_the_next_one_from_migrating(
    tmp_path: Path,
) -> None:
    first, second = (
        Application(tmp_path / name, f"sqlite+aiosqlite:///{tmp_path / name / 'app.db'}")
        for name in ("first", "second")
    )
    first.deploy(UNIQUE)
    second.deploy(GOOD)
    targets = (first.target(name="first"), second.target(name="second"))
    report = await Migrator(*targets, mode="migrate", recovery=["log-and-continue"]).run()
    assert [target.outcome for target in report.targets] == ["degraded", "migrated"]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("revision", "at r1, the code expects r2"),
        ("env", "at r1, the code expects r2"),
        ("corrupt", "the database is damaged"),
        ("ahead", "newer than this code"),
    ],
)
def test_the_risk_follows_from_the_failure(kind: Any, said: str) -> None:
    run: Any = SimpleNamespace(before=("r1",), wanted=("r2",))
    assert said in at_risk(run, Failure(kind, "boom"))
    assert "half way" in at_risk(run, Failure(kind, "boom", "partial-at-boundary"))


def test_a_schema_that_nobody_could_read_is_not_called_known() -> None:
    run: Any = SimpleNamespace(before=(), wanted=())
    for kind in ("unreachable", "disk-full", "history", "read-only"):
        said = at_risk(run, Failure(kind, "boom"))
        assert "is not known" in said and "at base" not in said
    run.before = ("r1",)
    assert "the database is at r1; which revision the code expects" in at_risk(
        run, Failure("history", "a revision is missing")
    )


def put_ahead(notes: Application) -> None:
    notes.execute("UPDATE alembic_version SET version_num = 'from_the_future'")


def damage(notes: Application) -> None:
    (notes.root / "app.db").write_bytes(b"this is not a database" * 400)


@pytest.mark.parametrize("told", [False, True], ids=["by itself", "told so"])
@pytest.mark.parametrize(("kind", "cause"), [("ahead", put_ahead), ("corrupt", damage)])
async def test_on_a_newer_or_a_damaged_database_the_application_starts_only_where_it_is_told_so(
    kind: str,
    cause: Any,
    told: bool,
    tmp_path: Path,
    sqlite_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    notes = Application(tmp_path, sqlite_url)
    cause(notes)
    strategy = ("log-and-continue", {kind: told})
    if told:
        (report,) = (await notes.start(strategy)).targets
        assert report.outcome == "degraded"
        assert kind in critical(caplog).getMessage()
        return
    with pytest.raises(MigrationError) as info:
        await notes.start("log-and-continue")
    (report,) = info.value.report.targets
    assert [each.kind for each in report.failures] == [kind]
    assert any(f'{{"{kind}": True}}' in note for note in report.notes)
    assert "not continued: log-and-continue starts on such a database only with" in str(info.value)
    assert not [each for each in caplog.records if each.levelno == logging.CRITICAL]


async def test_a_wrong_option_is_refused(notes: Application) -> None:
    notes.deploy(GOOD)
    with pytest.raises(PluginError, match="Its options: ahead, corrupt"):
        await notes.start(("log-and-continue", {"level": "info"}))
    with pytest.raises(PluginError, match="ahead must be True or False"):
        await notes.start(("log-and-continue", {"ahead": "yes"}))

"""The exception and the report say what the last state is, not only what a failure had left."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from support.notes_application import BROKEN, GOOD, HALF_WAY, ROWS, Application

from automigrator import MigrationError
from automigrator.backends.contract.record import FailedStarts, Record, loaded
from automigrator.failure import Failure


@pytest.fixture
def application(tmp_path: Path, database_url: str) -> Application:
    return Application(tmp_path, database_url)


async def failed(application: Application, *recovery: Any) -> MigrationError:
    with pytest.raises(MigrationError) as caught:
        await application.start(*recovery)
    return caught.value


async def test_after_a_restore_it_is_the_restored_one(application: Application) -> None:
    application.deploy(HALF_WAY)
    error = await failed(application, "backup-restore")
    assert "\nstate: clean, at r1 (what the failure left was undone)\n" in str(error)
    assert "half of a revision" not in str(error)
    (report,) = error.report.targets
    assert report.snapshot is not None and str(error).count(report.snapshot) == 1
    assert "now: clean, at r1" in str(error.report)
    assert error.report.targets[0].to_dict()["state"] == "clean"
    assert application.notes() == ROWS


@pytest.mark.long("[postgresql")
async def test_after_a_restore_an_application_that_is_told_to_start_reads_it_in_the_report(
    application: Application,
) -> None:
    application.deploy(HALF_WAY)
    report = await application.start("backup-restore", "log-and-continue")
    assert report.outcome == "degraded" and "now: clean, at r1" in str(report)


@pytest.mark.long("[postgresql")
async def test_without_one_the_failures_own_state_is_the_last(application: Application) -> None:
    application.deploy(HALF_WAY)
    error = await failed(application)
    assert error.report.targets[0].state == "partial-within-revision"
    assert str(error).count("state: partial-within-revision (") == 1


@pytest.mark.long("[postgresql")
async def test_what_is_clean_all_along_is_told_once(application: Application) -> None:
    application.deploy(BROKEN)
    error = await failed(application, "backup-restore")
    assert error.report.targets[0].state == "clean" and "now:" not in str(error.report)
    assert str(error).count("state: ") == 1


@pytest.mark.long("[postgresql")
async def test_the_half_of_an_earlier_start_stays_known_and_a_later_restore_does_not_end_it(
    application: Application,
) -> None:
    application.deploy(HALF_WAY)
    await failed(application)
    error = await failed(
        application, ("backup-restore", {"snapshot": "always"}), "log-and-continue"
    )
    assert "needs Migrator(allow_partial=True)" in str(error.report)
    assert error.report.targets[0].state == "partial-within-revision"


FAILURE = Failure("revision", "no luck", state="partial-at-boundary", applied=("r1",)).to_dict()
SOUND = Record("plan", "failed", "p 1", (FAILURE,), "clean", FailedStarts(2, 1.0, 2.0), 3.0)


def test_a_record_comes_back_as_it_was_left() -> None:
    record = loaded(SOUND.dumped())
    assert record is not None and Failure.from_dict(record.failures[0]).applied == ("r1",)


def test_so_does_one_of_a_state_that_is_unknown() -> None:
    record = loaded(SOUND._replace(state="unknown").dumped())
    assert record is not None and record.state == "unknown"


@pytest.mark.parametrize(
    "failure",
    [
        {},
        {**FAILURE, "state": "torn"},
        {**FAILURE, "kind": 5},
        {**FAILURE, "message": None},
        {**FAILURE, "applied": [1]},
        {**FAILURE, "applied": "r1"},
        {**FAILURE, "attempt": "1"},
        {name: value for name, value in FAILURE.items() if name != "state"},
    ],
)
def test_a_record_with_a_failure_that_cannot_be_read_is_none(failure: dict[str, Any]) -> None:
    data = {**json.loads(SOUND.dumped()), "failures": [failure]}
    assert loaded(json.dumps(data)) is None


def test_a_failure_of_a_later_release_may_say_more_and_of_another_kind() -> None:
    data = json.loads(SOUND.dumped())
    data["failures"] = [{**FAILURE, "kind": "moonlight", "more": [1, {}]}]
    record = loaded(json.dumps(data))
    assert record is not None and "moonlight" in str(Failure.from_dict(record.failures[0]))


@pytest.mark.parametrize("text", ["", "null", "5", "[]", '"x"', "{", "[" * 200_000, "\0", "{}"])
def test_what_is_no_record_is_none(text: str) -> None:
    assert loaded(text) is None


@pytest.mark.long
async def test_a_start_beside_a_damaged_record_goes_its_way(
    tmp_path: Path, sqlite_url: str
) -> None:
    application = Application(tmp_path, sqlite_url)
    application.deploy(BROKEN)
    for _ in range(5):
        await failed(application)
    place = f"{make_url(sqlite_url).database}.automigrator-record.json"
    damage(Path(place))
    error = await failed(application)
    assert error.report.targets[0].failures[0].revision == "r2"
    application.count = 1
    application.deploy(GOOD)
    damage(Path(place))
    assert (await application.start()).outcome == "migrated"


def damage(place: Path) -> None:
    data = json.loads(place.read_text("utf-8"))
    data["failures"] = [{"kind": "revision"}]
    place.write_text(json.dumps(data), "utf-8")


@pytest.mark.long("[postgresql")
async def test_one_that_waited_inherits_the_state_with_the_failure(
    application: Application,
) -> None:
    application.deploy(HALF_WAY)
    both = await asyncio.gather(application.start(), application.start(), return_exceptions=True)
    reports = [each.report.targets[0] for each in both if isinstance(each, MigrationError)]
    assert [each.state for each in reports] == ["partial-within-revision"] * 2
    assert any("while this process waited" in note for each in reports for note in each.notes)

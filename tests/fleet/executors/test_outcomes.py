"""Reports that come from another process: text of others, until each value is checked."""

from __future__ import annotations

import asyncio
import json

import pytest

from automigrator.errors import StoppedError
from automigrator.fleet.executors.contract import Work
from automigrator.fleet.executors.outcomes import brought, read, written
from automigrator.fleet.report import TenantReport
from automigrator.testing.databases import CANARY

REPORT = TenantReport("a", "migrated", (), ("r2",), 2, 0.5, 1, notes=("a note",), worker="w")


class Raising:
    """A fleet whose `bring` raises, or returns, what it is given."""

    def __init__(self, answer: BaseException | TenantReport) -> None:
        self.answer = answer

    async def bring(self, tenant: str) -> TenantReport:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    async def work(self) -> Work:
        raise AssertionError("a report is made without asking for the work")

    async def aclose(self) -> None: ...


def test_a_report_comes_back_as_it_was_sent() -> None:
    assert read(written(REPORT), "a") == REPORT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"name": "a"}',
        '{"name": "b", "outcome": "migrated"}',
        '{"name": "a", "outcome": "splendid"}',
        '{"name": "a", "outcome": "migrated", "applied": "many"}',
        '{"name": "a", "outcome": "migrated", "seconds": NaN}',
        '{"name": "a", "outcome": "migrated", "notes": [{}]}',
        '{"name": "a", "outcome": "migrated", "failure": []}',
        '{"name": "a", "outcome": "migrated", "failure": ' + "[" * 30 + "]" * 30 + "}",
    ],
)
def test_one_that_is_none_fails_its_tenant_alone(text: str) -> None:
    report = read(text, "a", "a worker")
    assert (report.name, report.outcome, report.worker) == ("a", "failed", "a worker")
    assert report.failure is not None and "cannot be read" in report.failure["message"]


def test_one_that_is_too_long_is_said_and_not_sent() -> None:
    report = read(written(REPORT._replace(notes=("x" * 2**17,))), "a")
    assert report.outcome == "failed" and report.failure is not None
    assert "it was migrated, and its report cannot be sent" in report.failure["message"]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(f"postgresql://fleet:{CANARY}@server/a"),
        ValueError(f"password={CANARY}"),
        KeyError(f"mysql://fleet:{CANARY}@server"),
    ],
)
async def test_what_a_fleet_raises_fails_its_tenant_without_secrets(error: Exception) -> None:
    report = await brought(Raising(error), "a", "w")
    assert (report.outcome, report.worker) == ("failed", "w")
    assert CANARY not in json.dumps(report.to_dict())


async def test_a_report_about_another_tenant_fails_this_one() -> None:
    report = await brought(Raising(REPORT), "b")
    assert (report.name, report.outcome) == ("b", "failed")


@pytest.mark.parametrize("error", [StoppedError("stopped", 15), asyncio.CancelledError()])
async def test_the_end_of_the_process_is_no_report(error: BaseException) -> None:
    with pytest.raises(type(error)):
        await brought(Raising(error), "a")

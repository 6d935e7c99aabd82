"""Headless devices: the page's configurations, and what they do with a damaged file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.pages import Page, Section, run_python

from automigrator import MigrationError, Migrator, Target

pytestmark = pytest.mark.plugins

PAGE = Page("headless")


def test_every_section_is_played() -> None:
    assert PAGE.unplayed() == []


@PAGE.plays(*[heading for heading, section in PAGE.sections.items() if section.runs])
async def test_the_devices_start_and_one_is_reset(section: Section, folder: Path) -> None:
    names: dict[str, Any] = {}
    for source in section.all("python"):
        await run_python(source, names)


@pytest.mark.parametrize(
    ("options", "outcomes"),
    [
        ({"recovery": ["purge"]}, ["recovered", "current"]),
        ({"recovery": ["log-and-continue"]}, ["failed", "failed"]),
        ({"recovery": [("log-and-continue", {"corrupt": True})]}, ["degraded", "degraded"]),
        ({"last_resort": "continue", "max_failed_starts": 1}, ["failed", "degraded"]),
    ],
    ids=["purge", "log-and-continue", "told so", "last resort"],
)
async def test_a_damaged_file(options: dict[str, Any], outcomes: list[str], folder: Path) -> None:
    (folder / "device.db").write_bytes(b"no database" * 2000)
    migrator = Migrator(
        Target("sqlite+aiosqlite:///device.db", "unique/alembic.ini"), mode="migrate", **options
    )
    for outcome in outcomes:
        try:
            report = await migrator.run()
        except MigrationError as error:
            report = error.report
        assert report.outcome == outcome
    if options.get("last_resort"):
        failure = report["device"].failures[-1]
        assert "stop the application before it writes more to a damaged file" in failure.advice

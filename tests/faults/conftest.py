"""Databases to kill processes at, seeds, and the table of what came of it."""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Callable, Iterator, Sequence

import pytest
from faults.campaign import Campaign, Counted
from faults.places import Database, File, Place
from support import postgres_server as _postgres
from support.table import Table

TABLE = Table(
    "kills.md",
    "nox -s faults -- --write-table",
    ("strategy", "database", "killed", "runs", "wrong"),
)


@pytest.fixture(scope="module")
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    """A database of the kind named, old and with rows in it; nothing of it stays."""
    root = tmp_path_factory.mktemp("place")
    if request.param != "postgresql":
        file = File(root, "wal" if request.param == "sqlite-wal" else "delete")
        yield file
        file.clear()
        return
    server: _postgres.Server = request.getfixturevalue("postgres_server")
    database = Database(server, f"am_{uuid.uuid4().hex[:12]}", root)
    yield database
    database.remove()


@pytest.fixture
def seed() -> int:
    """Printed, so that a failed test can be run again; AUTOMIGRATOR_SEED repeats one."""
    chosen = int(os.environ.get("AUTOMIGRATOR_SEED", random.randrange(10**6)))
    print(f"AUTOMIGRATOR_SEED={chosen}")
    return chosen


@pytest.fixture
def counted(record_property: Callable[[str, object], None]) -> Counted:
    """Counts a campaign's trials in the table, and fails when anything was wrong."""

    def count(campaign: Campaign, kind: str, trials: Sequence[Sequence[str]]) -> None:
        row = (campaign.case.strategy, campaign.place.name, kind)
        wrong = [each for trial in trials for each in trial]
        record_property("kills", [*row, len(trials), len(wrong)])
        assert not wrong, "\n\n".join(wrong)

    return count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A row for each strategy, database and kind of kill, summed over its tests."""
    found: dict[tuple[str, str, str], tuple[int, int]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            properties = dict(getattr(report, "user_properties", []))
            if "kills" in properties and report.when == "call":
                *row, runs, wrong = properties["kills"]
                before = found.get(tuple(row), (0, 0))
                found[tuple(row)] = (before[0] + runs, before[1] + wrong)
    if not found:
        return
    rows = [(*row, f"{runs:,}", str(wrong)) for row, (runs, wrong) in sorted(found.items())]
    terminalreporter.section("kills")
    terminalreporter.write_line(TABLE.rendered(rows))
    if terminalreporter.config.getoption("--write-table"):
        # a campaign takes more than an hour, and may be made in parts
        others = [row for row in TABLE.rows() if row[:3] not in found]
        TABLE.write(sorted([*others, *rows]))

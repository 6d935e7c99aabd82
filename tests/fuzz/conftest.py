"""The counts of all workers, and the table of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from support.table import Row, Table

TABLE = Table("fuzz.md", "nox -s fuzz -- --write-table", ("what", "SQLite", "PostgreSQL", "in all"))
_KINDS = ("sqlite", "postgresql")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Runs by fault and by outcome, summed over the tests."""
    found = [
        dict(report.user_properties)["fuzz"]
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call" and "fuzz" in dict(report.user_properties)
    ]
    if not found:
        return
    rows = list(_rows(found))
    terminalreporter.section("fuzz")
    terminalreporter.write_line(f"AUTOMIGRATOR_SEED={found[0]['seed']}")
    terminalreporter.write_line(TABLE.rendered(rows))
    if terminalreporter.config.getoption("--write-table"):
        TABLE.write(rows)


def _rows(found: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    yield _row("**runs**", found, lambda each: each["runs"])
    for part, said in (("faults", "fault"), ("outcomes", "outcome"), ("looks", "in between")):
        for name in sorted({name for each in found for name in each[part]}):
            yield _row(f"{said}: {name}", found, lambda each, p=part, n=name: each[p].get(n, 0))
    yield _row("**violations**", found, lambda each: each["violations"])


def _row(what: str, found: Sequence[Mapping[str, Any]], count: Any) -> Row:
    by_kind: Counter[str] = Counter()
    for each in found:
        by_kind[each["database"]] += count(each)
    return (what, *(f"{by_kind[kind]:,}" for kind in _KINDS), f"{by_kind.total():,}")

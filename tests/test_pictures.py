"""The pictures of the docs say what their tables and a real run say."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from support import alembic_projects
from support.pages import DOCS, script

from automigrator import Event, Migrator, Run, Target, TargetReport, hookimpl
from automigrator.events import catalogue

charts, diagram = script("charts"), script("diagram")


def texts(picture: str) -> set[str]:
    """Every text in a picture."""
    found = re.findall(r"<(?:text|tspan)[^>]*>([^<]+)<", (DOCS / "images" / picture).read_text())
    return {unescape(each).strip() for each in found}


@pytest.mark.parametrize("chart", charts.CHARTS, ids=lambda chart: chart.file)
def test_a_chart_shows_the_figures_of_its_table(chart: Any) -> None:
    shown, rows = texts(chart.file), charts.bars(chart)
    assert len(rows) >= 3
    assert {f"{value:g}" for _, *values in rows for value in values} <= shown
    assert {line for name, *_ in rows for line in name.splitlines()} <= shown


class Heard:
    """Notes the events, and makes a hook's end an event, too."""

    def __init__(self) -> None:
        self.names: list[str] = []

    @hookimpl
    def on_event(self, event: Event) -> None:
        self.names.append(event.name)

    @hookimpl
    def before_migrate(self, run: Run) -> None: ...

    @hookimpl
    def after_migrate(self, run: Run, report: TargetReport) -> None: ...


async def test_a_run_takes_the_steps_of_the_diagram_in_their_order(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'app.db'}"
    ini = alembic_projects.project(tmp_path, "async", url).config
    first = Target(url, ini, revision="r1")
    await Migrator(first, mode="migrate").run()  # an empty database is not rehearsed
    heard = Heard()
    await Migrator(Target(url, ini), mode="migrate", rehearse=True, plugins=[heard]).run()
    told = [event for _, _, event in diagram.STEPS]
    assert set(told) <= set(catalogue.CATALOGUE)
    left = iter(heard.names)
    met = [event for event in told if event in heard.names and event in left]
    assert set(told) - set(met) <= {"reached", "repaired"}


def test_the_diagram_is_drawn_from_its_steps() -> None:
    labels = {text for step in diagram.STEPS for text in step[:2]}
    labels |= {text for text, _, _ in diagram.DECISIONS}
    assert labels <= texts("run.svg")

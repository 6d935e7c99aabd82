"""Draws the charts of `docs/costs.md` from the tables that the benchmarks wrote.

    python docs/charts.py

Needs matplotlib, which `nox -s docs -- charts` installs. The same tables give the same files.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parent
OURS, THEIRS = "#1a7f64", "#8a8f98"


class Chart(NamedTuple):
    """Bars of two sides from a page's table: rows that match `of`, named by `name`."""

    file: str
    title: str
    page: str
    of: str
    """A pattern of the rows that are shown."""
    name: tuple[int, ...]
    """The columns that name a row."""
    ours: int
    theirs: int
    unit: str
    against: str


CHARTS = (
    Chart(
        "cost-nothing-to-do.svg",
        "A start with nothing to do: CPU",
        "nothing-to-do.md",
        r"\| engine \|",
        (0, 1),
        6,
        10,
        "ms",
        "alembic upgrade heads",
    ),
    Chart(
        "cost-applying.svg",
        "All of 1,000 small revisions: time",
        "applying.md",
        r"\| 1,000 \|",
        (0, 1),
        3,
        5,
        "s",
        "alembic upgrade head",
    ),
    Chart(
        "cost-first-start.svg",
        "A first start with two revisions: time",
        "applying.md",
        r"\*\*\d+\*\* \| \d+ \|$",
        (0, 1),
        2,
        4,
        "ms",
        "alembic upgrade head",
    ),
    Chart(
        "cost-recovery.svg",
        "A copy and a restore of about 200 MB: time",
        "recovery-cost.md",
        r"s \(CPU .* s \(CPU",
        (0, 1, 3),
        2,
        4,
        "s",
        "the plain tool that is named",
    ),
)


def bars(chart: Chart) -> list[tuple[str, float, float]]:
    """Each row's name, and how long either side took."""
    found = []
    for line in (DOCS / chart.page).read_text("utf-8").splitlines():
        if line.startswith("|") and re.search(chart.of, line):
            cells = [cell.strip(" *`") for cell in line.strip("|").split("|")]
            names = [cells[column].replace("`", "") for column in chart.name]
            name = ", ".join(names[:2]) + "".join(f"\n{each}" for each in names[2:])
            times = [
                cells[column].split()[0].replace(",", "") for column in (chart.ours, chart.theirs)
            ]
            found.append((name, float(times[0]), float(times[1])))
    return found


def draw(chart: Chart) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": chart.file, "svg.fonttype": "none", "font.size": 9}
    from matplotlib import pyplot

    rows = bars(chart)
    figure, axes = pyplot.subplots(figsize=(7.2, 1 + 0.55 * len(rows)), layout="constrained")
    for offset, column, color, label in (
        (-0.2, 1, OURS, "automigrator"),
        (0.2, 2, THEIRS, chart.against),
    ):
        places = [number + offset for number in range(len(rows))]
        drawn = axes.barh(places, [row[column] for row in rows], 0.38, color=color, label=label)
        axes.bar_label(drawn, labels=[f"{row[column]:g}" for row in rows], padding=3)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.margins(x=0.12)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    title = f"{chart.title} in {chart.unit}, less is better"
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside lower left", ncols=2)
    figure.savefig(DOCS / "images" / chart.file, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    for each in CHARTS:
        draw(each)

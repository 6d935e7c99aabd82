"""Acts done by both sides in one run, round by round, and the lines that tell of them."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import large_databases
import page
from costs import Cost, settle

sys.path.insert(0, str(page.ROOT / "tests"))

from support import alembic_projects

OURS = str(Path(__file__).with_name("recovery_ours.py"))

Costs = dict[str, Cost]
"""What each act cost, by its name."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: the same act done by both sides, round by round."""

    database: str
    act: str
    tool: str
    ours: list[Cost]
    theirs: list[Cost]

    def __str__(self) -> str:
        ratios = (f"{median(self.ours, k) / median(self.theirs, k):.2f}" for k in ("wall", "cpu"))
        cells = (self.database, self.act, shown(self.ours), self.tool, shown(self.theirs), *ratios)
        return f"| {' | '.join(cells)} |"


@dataclass(frozen=True, slots=True)
class Watched:
    """What an act of ours does to the process that it happens in, at worst."""

    database: str
    act: str
    costs: list[Cost]

    def __str__(self) -> str:
        stall, blocked = (max(each[k] for each in self.costs) * 1000 for k in ("stall", "blocked"))
        peak = max(each["peak"] for each in self.costs)
        return (
            f"| {self.database} | {self.act} | {stall:.0f} ms | {blocked:.0f} ms | {peak:.0f} MB |"
        )


def median(costs: list[Cost], key: str) -> float:
    return statistics.median(each[key] for each in costs)


def shown(costs: list[Cost]) -> str:
    return f"{median(costs, 'wall'):.2f} s (CPU {median(costs, 'cpu'):.2f} s)"


def alternating(
    rounds: int, size_mb: int, sides: dict[str, Callable[[], Costs]]
) -> dict[str, dict[str, list[Cost]]]:
    """Every side once a round, each other round the other way round; costs by side and act."""
    found: dict[str, dict[str, list[Cost]]] = {side: {} for side in sides}
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            settle(size_mb * 2)  # as much as a copy and a restore fill
            for act, cost in sides[side]().items():
                found[side].setdefault(act, []).append(cost)
    return found


def failing(folder: Path) -> None:
    """The database is at r1; r2 is committed, r3 fails, and r2 is what is left to undo."""
    table = 'op.create_table("t", sa.Column("id", sa.Integer, primary_key=True))'
    alembic_projects.revision(folder, large_databases.START, None)
    alembic_projects.revision(folder, "r2", large_databases.START, upgrade=table)
    alembic_projects.revision(folder, "r3", "r2", upgrade='raise ValueError("meant to fail")')


def project(folder: Path, url: str) -> str:
    made = alembic_projects.project(folder, "per_migration", url, revisions=failing, other_url=url)
    return str(made.config)

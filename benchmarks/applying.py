"""What it costs to apply revisions: `Migrator.run()` against `alembic upgrade head`.

    python benchmarks/applying.py [--rounds 5] [--revisions 1000] [--only SQLite] [--folder PLACE]
                                  [--write-docs]

Both sides in one run, in fresh processes in turn (`applying_side.py`), each on an empty database;
medians. CPU is that of the process, the server's and other processes' left out. `--folder` is
where the SQLite file goes, for a machine whose temporary files are in memory.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import page
import small_revisions
from child import in_turn, measured
from databases import Databases, databases
from support import alembic_projects

SIDE = str(Path(__file__).with_name("applying_side.py"))
WAYS = (
    ("PostgreSQL", "generic", "psycopg"),
    ("PostgreSQL", "async", "asyncpg"),
    ("SQLite", "generic", "sqlite3"),
)
"""The database, the template of Alembic's whose env.py is used, and the driver that it takes."""
FIRST = 2
"""Revisions of an application that starts for the first time."""

MANY = [
    "All pending revisions of a long history, in seconds.",
    "",
    "| database | Alembic's template, driver | revisions | ours: wall | CPU "
    "| `alembic upgrade head`: wall | CPU | **ratio, wall** | **ratio, CPU** |",
    f"|{'---|' * 9}",
]
FEW = [
    f"A first start with {FIRST} revisions pending, in milliseconds.",
    "",
    "| database | Alembic's template, driver | ours: wall | CPU "
    "| `alembic upgrade head`: wall | CPU | **more, wall** | more, CPU |",
    f"|{'---|' * 8}",
]


@dataclass(frozen=True, slots=True)
class Found:
    """Both sides of one line of a table, round by round."""

    database: str
    how: str
    count: int
    ours: list[dict[str, float]]
    theirs: list[dict[str, float]]

    def many(self) -> str:
        ours, theirs = self._medians()
        cells = [self.database, self.how, f"{self.count:,}"]
        cells += [f"{each:.2f}" for each in (*ours, *theirs)]
        cells += [f"**{a / b:.2f}**" for a, b in zip(ours, theirs, strict=True)]
        return f"| {' | '.join(cells)} |"

    def few(self) -> str:
        ours, theirs = self._medians()
        cells = [self.database, self.how]
        cells += [f"{each * 1000:.0f}" for each in (*ours, *theirs)]
        more = [f"{(a - b) * 1000:.0f}" for a, b in zip(ours, theirs, strict=True)]
        return f"| {' | '.join([*cells, f'**{more[0]}**', more[1]])} |"

    def _medians(self) -> tuple[list[float], list[float]]:
        def medians(costs: list[dict[str, float]]) -> list[float]:
            return [statistics.median(each[key] for each in costs) for key in ("wall", "cpu")]

        return medians(self.ours), medians(self.theirs)


def compared(
    made: Databases, way: tuple[str, str, str], count: int, rounds: int, folder: Path
) -> Found:
    """Apply `count` revisions with both sides in turn."""
    database, template, driver = way
    url = made.url(database)
    project = alembic_projects.project(
        folder,
        template,
        url,
        revisions=lambda versions: small_revisions.write(versions, count),
        other_url=url,
    )
    head = {small_revisions.identifier(count - 1)}

    def applied(side: str) -> dict[str, float]:
        made.empty(database)
        small_revisions.forget_heads(project.versions)
        cost = measured(SIDE, side, url, str(project.config))
        assert alembic_projects.heads(url) == head, (side, way)
        return cost

    ours, theirs = in_turn(applied, "alembic", rounds)
    return Found(database, f"{template}, {driver}", count, ours, theirs)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--revisions", type=int, default=1000)
    arguments.add_argument("--only", choices=Databases.KINDS)
    arguments.add_argument("--folder")
    arguments.add_argument("--write-docs", action="store_true")
    options = arguments.parse_args()
    if options.write_docs and options.only:
        arguments.error("--write-docs writes the whole table: leave out --only")
    many, few = list(MANY), list(FEW)
    with tempfile.TemporaryDirectory() as folder, databases(options.folder) as made:
        for way in WAYS:
            if options.only not in (None, way[0]):
                continue
            place = Path(folder) / "-".join(way)
            few.append(compared(made, way, FIRST, options.rounds, place / "few").few())
            print(few[-1], flush=True)
            count = options.revisions
            many.append(compared(made, way, count, options.rounds, place / "many").many())
            print(many[-1], flush=True)
        found = "\n".join([*many, "", *few, "", made.circumstances(options.rounds)])
    print(f"\n{found}")
    if options.write_docs:
        page.write("applying.md", found)


if __name__ == "__main__":
    main()

"""How long an application's event loop stands still while a real history is applied.

    python benchmarks/stalls.py [--rounds 5] [--only SQLite] [--folder PLACE] [--write-docs]

Ours against `asyncio.to_thread(command.upgrade, …)`, both in one run, in fresh processes in turn
(`stalls_side.py`); medians of the longest gap of each. The histories are those that `nox -s
histories` installs and compares; one that is not installed is left out, and named.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
from collections.abc import Iterator
from pathlib import Path

import page
from child import in_turn, measured
from databases import Databases, databases
from histories import applications, beginnings
from histories.applications import Application
from support import alembic_projects

SIDE = str(Path(__file__).with_name("stalls_side.py"))
HEAD = [
    "The longest time in milliseconds that the application's event loop stood still: with the "
    "clock alone, and without the time that its thread waited for a CPU.",
    "",
    "| history | begins with | database | ours | Alembic in a thread | **ratio** "
    "| ours, without waiting for a CPU | Alembic | ratio |",
    f"|{'---|' * 9}",
]
Costs = list[dict[str, float]]


def installed() -> Iterator[Application]:
    """Every history that begins without `bootstrap`, which plain Alembic does not have."""
    left_out = set()
    for application in applications.APPLICATIONS:
        package = application.name.partition(".")[0]
        found = importlib.util.find_spec(package) is not None
        if package == "jupyterhub":  # old releases make the tables that its histories begin with
            found = found and beginnings.OLD_RELEASES in os.environ
        if not found:
            left_out.add(package)
        elif application.bootstrap is None:
            yield application
    if left_out:
        print(f"Left out, as not installed: {', '.join(sorted(left_out))}", flush=True)


def row(made: Databases, kind: str, application: Application, rounds: int) -> str:
    """One line of the table."""
    url = made.url(kind)
    made.empty(kind)
    applications.begin(application, alembic_projects.with_sync_driver(url), made.folder)
    made.keep(kind)

    def migrated(side: str) -> dict[str, float]:
        made.put_back(kind)
        return measured(SIDE, side, str(application), url, str(made.folder))

    ours, theirs = in_turn(migrated, "thread", rounds)
    stall, blocked = (cells(ours, theirs, key) for key in ("stall", "blocked"))
    stall[-1] = f"**{stall[-1]}**"
    return f"| {' | '.join([application.name, application.start, kind, *stall, *blocked])} |"


def cells(ours: Costs, theirs: Costs, key: str) -> list[str]:
    """Both medians in milliseconds, and their ratio."""
    a, b = (statistics.median(each[key] for each in costs) * 1000 for costs in (ours, theirs))
    return [f"{a:.1f}", f"{b:.1f}", f"{a / b:.2f}"]


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--only", choices=Databases.KINDS)
    arguments.add_argument("--folder")
    arguments.add_argument("--write-docs", action="store_true")
    options = arguments.parse_args()
    lines = list(HEAD)
    with databases(options.folder) as made:
        for kind in Databases.KINDS:
            for application in installed():
                fits = kind.lower() in application.databases
                if fits and options.only in (None, kind):
                    lines.append(row(made, kind, application, options.rounds))
                    print(lines[-1], flush=True)
        found = "\n".join([*lines, "", made.circumstances(options.rounds)])
    print(f"\n{found}")
    if options.write_docs:
        page.write("histories.md", found)


if __name__ == "__main__":
    main()

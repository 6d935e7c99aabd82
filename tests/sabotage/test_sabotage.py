"""A hundred mistakes in revisions, and what three tools catch of them.

`nox -s sabotage` makes them all, with pytest-automigrator, pytest-alembic and pytest-mrt in one
session of pytest each time; `nox -s long` makes some, with ours alone. The quick suite has those of
the plugin's `test_ready_made.py`.
"""

from __future__ import annotations

import itertools
import os
import statistics
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
from sabotage.mistakes import MISTAKES, TABLES, Case, Revision, cases
from sabotage.sabotaged import (
    OURS,
    TOOLS,
    Verdict,
    decoded,
    encoded,
    is_caught,
    judged,
    lay,
    processes,
)
from sqlalchemy import make_url
from support.campaigns import Results
from support.table import Row, Table

COUNT = int(os.environ.get("AUTOMIGRATOR_SABOTAGE", 0))
"""How many mistakes are made; 0 for no campaign."""

TABLE = Table(
    "testing-your-migrations.md",
    "nox -s sabotage -- --write-table",
    ("mistake, in four tables each", *TOOLS),
)
FEW = ("an index is left", "a data step is not undone", "a second head")


@pytest.mark.long
@pytest.mark.parametrize(
    "mistake", [each for each in MISTAKES if each.name in FEW], ids=lambda each: each.name
)
def test_a_mistake_fails_our_tests_and_its_absence_does_not(mistake: Any, tmp_path: Path) -> None:
    case = Case(mistake, "Invoice Lines")
    verdicts = []
    with processes(1) as pool:
        for name, revision in (("good", mistake.good), ("bad", case.bad)):
            lay(tmp_path / name, case, revision, (OURS,))
            verdicts.append(pool.submit(judged, tmp_path / name, case).result()[OURS])
    good, bad = verdicts
    assert not good.failed, good.lines
    assert bad.failed and is_caught(bad, good)


def test_there_are_a_hundred_different_mistakes() -> None:
    made = list(cases())
    texts = {(case.table, *map(str, vars(case.bad).values())) for case in made}
    assert len(made) == len(texts) == 100
    assert all(case.bad != case.mistake.good for case in made)


@pytest.mark.long
@pytest.mark.skipif(not COUNT, reason="a campaign: nox -s sabotage")
def test_a_hundred_mistakes_with_three_tools(
    request: pytest.FixtureRequest, postgres_server: Any, tmp_path: Path
) -> None:
    with Campaign(postgres_server, tmp_path) as campaign:
        trials = campaign.run()
    rows = [*(_row(trials, each.name) for each in MISTAKES[: len(trials) // 4]), *_sums(trials)]
    print(TABLE.rendered(rows))
    for tool in TOOLS:
        alarms = {name for trial in trials for name in trial.good[tool].failed}
        print(f"{tool} fails without a mistake:", *sorted(alarms))
        print(f"{tool} lets pass:", *(f"{each.case};" for each in trials if not each.caught(tool)))
    assert not any(trial.good[OURS].failed for trial in trials)
    assert sum(trial.caught(OURS) for trial in trials) >= 0.95 * len(trials)
    if len(trials) == 100:  # the document is about no fewer
        if request.config.getoption("--write-table"):
            TABLE.write(rows)
        assert TABLE.rows()[:-1] == rows[:-1]  # the last one is of times


@dataclass(frozen=True)
class Trial:
    """What the tools say of a mistake, and of the same revision without it."""

    case: Case
    good: Mapping[str, Verdict]
    bad: Mapping[str, Verdict]

    def caught(self, tool: str) -> bool:
        return is_caught(self.bad[tool], self.good[tool])


class Campaign:
    """The sessions, some at once; a revision without its mistake is judged in one table."""

    def __init__(self, server: Any, folder: Path) -> None:
        self._server, self._folder = server, folder
        self._role = f"am_{uuid.uuid4().hex[:12]}"

    def __enter__(self) -> Self:
        # pytest-mrt takes no password with a percent sign, which those of our suite have
        self._server.execute(f"create role {self._role} login superuser password 'sabotage'")
        return self

    def __exit__(self, *_: object) -> None:
        sql = "select datname::text from pg_database join pg_roles r on r.oid = datdba"
        for (name,) in self._server.execute(f"{sql} where rolname = $1", self._role):
            self._server.drop(name)
        self._server.execute(f"drop role {self._role}")

    def run(self) -> list[Trial]:
        """What the tools say of each case."""
        made = list(cases())[:COUNT]
        tables = itertools.cycle(TABLES)
        alone: dict[int, Case] = {}
        for case in made:
            if id(case.mistake.good) not in alone:
                alone[id(case.mistake.good)] = Case(case.mistake, next(tables))
        work = [(case, case.mistake.good) for case in alone.values()]
        work += [(case, case.bad) for case in made]
        results = Results("AUTOMIGRATOR_SABOTAGE_RESULTS", "none")
        with processes(os.cpu_count() or 1) as pool:
            left = {pool.submit(self.judged, *work[n]): n for n in results.left(len(work))}
            for each in as_completed(left):
                results.note(left[each], encoded(each.result()))
        found = [decoded(results.verdicts[number]) for number in range(len(work))]
        good = dict(zip(alone, found, strict=False))  # the first of them
        return [
            Trial(case, good[id(case.mistake.good)], bad)
            for case, bad in zip(made, found[len(good) :], strict=True)
        ]

    def judged(self, case: Case, revision: Revision) -> Mapping[str, Verdict]:
        name = f"{self._role}_{uuid.uuid4().hex[:12]}"
        folder = self._folder / name
        lay(folder, case, revision)
        if case.mistake.database == "sqlite":
            return judged(folder, case, mrt=f"sqlite:///{folder / 'mrt.db'}")
        url = make_url(self._server.url(self._server.maintenance_database)).set(
            drivername="postgresql", username=self._role, password="sabotage"
        )
        mrt = url.set(drivername="postgresql+psycopg", database=name)
        self._server.execute(f"create database {name} owner {self._role}")
        shown = (each.render_as_string(hide_password=False) for each in (url, mrt))
        verdicts = judged(folder, case, *shown)
        self._server.drop(name)
        return verdicts


def _row(trials: Sequence[Trial], name: str) -> Row:
    """How often each tool caught a mistake."""
    of_it = [trial for trial in trials if trial.case.mistake.name == name]
    return (name, *(str(sum(each.caught(tool) for each in of_it)) for tool in TOOLS))


def _sums(trials: Sequence[Trial]) -> list[Row]:
    """The last rows: how many were caught, false alarms, times."""
    caught, alarms, times = (
        ["**caught**"],
        ["false alarms"],
        ["seconds of CPU without a mistake, median"],
    )
    alone = {id(each.good): each.good for each in trials}.values()
    for tool in TOOLS:
        caught.append(f"**{sum(each.caught(tool) for each in trials)} of {len(trials)}**")
        alarms.append(f"{sum(bool(good[tool].failed) for good in alone)} of {len(alone)}")
        times.append(f"{statistics.median(good[tool].cpu_s for good in alone):.1f}")
    return [tuple(each) for each in (caught, alarms, times)]

"""A revision gives exactly what `alembic upgrade` gives, or nothing happens; see docs/faithful.md.

`nox -s faithful` draws thousands of pairs, appends each result to a file, and goes on from there.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from faithful.campaign import Worker, judged, prepared
from faithful.pairs import Pair, drawn
from support.campaigns import Results, spread
from support.postgres_server import Server

PAIRS = int(os.environ.get("AUTOMIGRATOR_FAITHFUL", 0))
"""How many in all; set by `nox -s faithful`."""
QUICK = 3
SEED = os.environ.get("AUTOMIGRATOR_SEED", "1")
MOST_REFUSED = 0.02
"""Of what plain Alembic runs."""


@pytest.fixture
def workers(tmp_path: Path, postgres_server: Server) -> Iterator[list[Worker]]:
    prepared(postgres_server)
    made = [Worker(tmp_path, postgres_server) for _ in range(2 if PAIRS else 1)]
    yield made
    for each in made:
        each.close()


def test_ours_leaves_what_plain_alembic_leaves_or_changes_nothing(workers: list[Worker]) -> None:
    results = Results("AUTOMIGRATOR_FAITHFUL_RESULTS", SEED)
    wrong: list[str] = []

    def run(worker: Worker, number: int) -> None:
        pair = drawn(f"{SEED} {number}")
        answer = worker.run(pair)
        verdict, why = judged(pair, answer)
        if verdict == "different":
            wrong.append(f"{SEED} {number}: {pair}: {why}")
        drive = answer["ours"].get("drive")
        results.note(number, verdict, why=why, drive=drive, **asdict(pair))

    spread(results, PAIRS or QUICK, workers, run)
    counts = Counter(results.verdicts.values())
    print(f"pairs: {dict(counts)}")
    assert not wrong, "\n".join(wrong)
    assert not counts["different"], "an earlier part of this campaign found differences"
    assert counts["refused"] <= max(MOST_REFUSED * (counts["equal"] + counts["refused"]), 1)


def test_the_judge_sees_a_difference_in_a_row_a_table_and_the_process() -> None:
    pair = Pair("postgresql", "sync", "plain", "nothing", "", "postgresql", "engine", "a column")
    left = {"schema": {"users": {}}, "rows": {"users": ["(1, 'ada')"]}}
    other = {"schema": {"users": {}}, "rows": {"users": ["(1, 'bob')"]}}

    def verdict(ours: dict[str, object], **more: object) -> str:
        answer = {"plain": {"left": left}, "ours": {"left": ours, "process": [], **more}}
        return judged(pair, answer)[0]

    assert verdict(left) == "equal"
    assert verdict(other) == "different"
    assert verdict({**left, "schema": {}}) == "different"
    assert verdict(left, process=["environ"]) == "different"
    assert verdict(left, failed="no", hung=True) == "different"
    assert verdict({}, failed="no", state="clean") == "refused"
    assert verdict(left, failed="no", state="clean") == "different"

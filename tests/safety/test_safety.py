"""No row is lost unasked, and no report is untrue, whatever goes wrong; see docs/safety.md.

`nox -s safety` draws thousands of trials, appends each result to a file, and goes on from there.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from safety.laboratory import Laboratory
from safety.trials import drawn
from support.campaigns import Results, spread
from support.postgres_server import Server

pytestmark = [pytest.mark.plugins, pytest.mark.long]

TRIALS = int(os.environ.get("AUTOMIGRATOR_SAFETY", 0))
"""How many in all; set by `nox -s safety`."""
QUICK = 6
SEED = os.environ.get("AUTOMIGRATOR_SEED", "1")


@pytest.fixture
def laboratories(tmp_path: Path, postgres_server: Server) -> Iterator[list[Laboratory]]:
    folders = [tmp_path / str(number) for number in range(3 if TRIALS else 1)]
    for each in folders:
        each.mkdir()
    made = [Laboratory(each, postgres_server) for each in folders]
    yield made
    for laboratory in made:
        laboratory.close()


def test_no_row_is_lost_unasked_and_no_report_is_untrue(laboratories: list[Laboratory]) -> None:
    results = Results("AUTOMIGRATOR_SAFETY_RESULTS", SEED)
    wrong: list[str] = []

    def run(laboratory: Laboratory, number: int) -> None:
        trial = drawn(f"{SEED} {number}")
        found = laboratory.run(trial)
        verdict = "wrong" if found.wrong else ", ".join(found.outcomes)
        if found.wrong:
            wrong.append(f"{SEED} {number}: {trial}: {'; '.join(found.wrong)}")
        results.note(number, verdict, **asdict(found), **asdict(trial))

    spread(results, TRIALS or QUICK, laboratories, run)
    print(f"trials: {dict(Counter(results.verdicts.values()).most_common())}")
    assert not wrong, "\n".join(wrong)
    assert "wrong" not in results.verdicts.values(), "an earlier part of this campaign went wrong"

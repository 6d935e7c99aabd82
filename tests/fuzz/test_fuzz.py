"""Random lives of an application with its database: nothing is lost, and nothing untrue is said."""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from fuzz.life import LivingDatabase
from fuzz.machine import LivingApplication, Session
from fuzz.tally import Counts
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

pytestmark = pytest.mark.plugins

RUNS = int(os.environ.get("AUTOMIGRATOR_FUZZ", 0))
"""How many calls of run() in all; set by `nox -s fuzz`. `nox -s long` makes a few."""
PARTS = 2 if RUNS else 1
QUICK = 12
SHARES = {"sqlite": 0.6, "postgresql": 0.4}
"""Of the runs: a server takes its time to copy databases."""
STEPS = 14
BATCH = 50 if RUNS else 10
"""Lives that are drawn together; the first of them is always the same, and dull."""


@pytest.fixture(params=["sqlite", "postgresql"])
def session(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Session]:
    limit = math.ceil(RUNS * SHARES[request.param] / PARTS) if RUNS else QUICK
    session = Session(request.param, tmp_path, Counts(limit))
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres_server")
        session.database = LivingDatabase(server, f"am_{uuid.uuid4().hex[:12]}")
    yield session
    if session.database is not None:
        session.database.close()


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_is_lost_and_every_report_is_true_in_a_random_life(
    session: Session,
    part: int,
    testrun_uid: str,
    record_property: Callable[[str, object], None],
) -> None:
    drawn = int(testrun_uid[:5], 16) if RUNS else 1  # the same for all workers
    seed = int(os.environ.get("AUTOMIGRATOR_SEED", drawn))
    print(f"AUTOMIGRATOR_SEED={seed}")
    chosen = settings(
        max_examples=BATCH,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    lives = type("Lives", (LivingApplication,), {"session": session})
    counts = session.counts
    batch = 0
    while not counts.enough and len(counts.violations) < 5:
        hypothesis.seed(f"{seed} {session.kind} {part} {batch}")(lives)
        batch += 1
        try:
            run_state_machine_as_test(lives, settings=chosen)
        except Exception:
            # a violation is counted already, and may not come again when it is replayed
            if not counts.violations and not counts.enough:
                raise
    record_property("fuzz", {"database": session.kind, "seed": seed, **counts.to_dict()})
    print("COUNTS", counts.to_dict())
    assert not counts.violations, "\n\n".join(counts.violations)

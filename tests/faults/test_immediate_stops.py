"""The PostgreSQL server is stopped at once at random moments, and comes back: nothing is lost.

An immediate stop is no power cut: what the server has written is in the system's memory and stays,
so that the harness's fsync=off hides nothing here.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.campaign import MOMENTS, Campaign, Counted
from faults.cases import CASES, Case
from faults.places import Database
from faults.test_kills import QUICK
from support import postgres_server

pytestmark = [pytest.mark.plugins, pytest.mark.long]

Stoppable = tuple[postgres_server.Server, postgres_server.Stop]


@pytest.fixture(scope="module")
def stoppable() -> Iterator[Stoppable]:
    """A server of these tests' own: nobody else's tests are stopped with it."""
    with postgres_server.stoppable() as both:
        yield both


CHOSEN = [c for c in CASES if "postgresql" in c.on and (MOMENTS or c.name == QUICK[0])]


@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.name)
def test_stopped_at_random_moments_nothing_is_lost(
    stoppable: Stoppable, case: Case, tmp_path: Path, seed: int, counted: Counted
) -> None:
    server, stop = stoppable
    campaign = Campaign(tmp_path, case, Database(server, f"stopped_{CASES.index(case)}_", tmp_path))
    moments = range(round(MOMENTS * case.share / 4) or 1)
    trials = [campaign.stopped(stop, random.Random(f"{seed} {n}")) for n in moments]
    counted(campaign, "immediate stop of the server", trials)

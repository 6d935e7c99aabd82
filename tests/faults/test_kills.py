"""kill -9 at every step and at random moments, then other starts: nothing is ever lost."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from faults.campaign import MOMENTS, Campaign, Counted
from faults.cases import CASES, Case
from faults.places import File, Place

pytestmark = [pytest.mark.plugins, pytest.mark.long]

QUICK = ("restore, failing", "purge")
SOON_S = 0.01


PLACES = (
    ["sqlite-wal", "sqlite-rollback", "postgresql"] if MOMENTS else ["sqlite-wal", "postgresql"]
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every case on every database that it is for."""
    if "campaign" in metafunc.fixturenames:
        chosen = [case for case in CASES if MOMENTS or case.name in QUICK]
        pairs = [(p, case) for p in PLACES for case in chosen if p.partition("-")[0] in case.on]
        names = [f"{case.name}-{place}" for place, case in pairs]
        metafunc.parametrize(("place", "campaign"), pairs, indirect=True, ids=names, scope="module")


@pytest.fixture(scope="module")
def campaign(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, place: Place
) -> Campaign:
    case: Case = request.param
    return Campaign(tmp_path_factory.mktemp("campaign"), case, place)


def test_killed_at_every_step_nothing_is_lost(
    campaign: Campaign, seed: int, counted: Counted
) -> None:
    chosen = _steps(campaign, seed)
    trials = [campaign.killed_at_step(n, random.Random(f"{seed} {n}")) for n in chosen]
    counted(campaign, "at a step", trials)


def test_killed_shortly_after_every_step_nothing_is_lost(
    campaign: Campaign, seed: int, counted: Counted
) -> None:
    """While a statement runs in the server, say, or a copy is half written."""
    chosen = _steps(campaign, seed)
    trials = [
        campaign.killed_at_step(n, random.Random(f"{seed} {n}"), within_s=SOON_S) for n in chosen
    ]
    counted(campaign, f"within {SOON_S * 1000:.0f} ms of a step", trials)


def test_killed_at_random_moments_nothing_is_lost(
    campaign: Campaign, seed: int, counted: Counted
) -> None:
    moments = range(round(MOMENTS * campaign.case.share) or 1)
    trials = [campaign.killed_at_a_moment(random.Random(f"{seed} {n}")) for n in moments]
    counted(campaign, "at a random moment", trials)


def _steps(campaign: Campaign, seed: int) -> Sequence[int]:
    every = range(1, len(campaign.steps) + 1)
    return every if MOMENTS else random.Random(seed).sample(every, 1)


def _campaign(root: Path, name: str) -> Campaign:
    (case,) = (case for case in CASES if case.name == name)
    return Campaign(root, case, File(root, "wal"))


def test_the_next_start_removes_what_was_half_copied(tmp_path: Path) -> None:
    campaign = _campaign(tmp_path, "restore, failing")
    half = [n for n, step in enumerate(campaign.steps, 1) if step.endswith(".partial")]
    assert campaign.killed_at_step(half[-1], random.Random(0)) == []


def test_a_purge_that_is_killed_at_its_very_end_leaves_no_copy_for_ever(tmp_path: Path) -> None:
    """The next start finds nothing to do but what a journal tells it, and looks no further."""
    campaign = _campaign(tmp_path, "purge")
    removals = [n for n, step in enumerate(campaign.steps, 1) if step.startswith("os.remove")]
    trials = [campaign.killed_at_step(n, random.Random(n)) for n in removals[-3:]]
    assert trials == [[]] * 3

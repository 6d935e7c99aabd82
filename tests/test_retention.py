"""Which copies may go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from automigrator import Limits
from automigrator.retention import at_of

NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)
STAMPS = [f"202603{day:02}T120000000000Z" for day in (1, 10, 20, 30)]


@pytest.mark.parametrize(
    ("limits", "old"),
    [
        (Limits(), []),
        (Limits(keep=3), STAMPS[:1]),
        (Limits(keep=1), STAMPS[:3]),
        (Limits(keep=9), []),
        (Limits(max_age=15), STAMPS[:2]),
        (Limits(max_age=timedelta(days=15)), STAMPS[:2]),
        (Limits(max_age=timedelta(hours=1)), STAMPS[:3]),
        (Limits(keep=3, max_age=15), STAMPS[:2]),
        (Limits(keep=2, max_age=25), STAMPS[:2]),
    ],
)
def test_those_beyond_a_limit_may_go_and_the_newest_never(limits: Limits, old: list[str]) -> None:
    assert limits.outdated(STAMPS, NOW) == old


@pytest.mark.parametrize("microseconds", ["", "000000", "123456"])
def test_a_stamp_gives_its_time_with_and_without_microseconds(microseconds: str) -> None:
    at = at_of(f"20260331T140548{microseconds}Z")
    assert at is not None and at.replace(microsecond=0) == datetime(
        2026, 3, 31, 14, 5, 48, tzinfo=UTC
    )


def test_a_clock_that_was_wrong_makes_nothing_old() -> None:
    stamps = ["19700101T000000Z", "20380101T000000Z", "of nobody's making"]
    assert Limits(max_age=1).outdated(stamps[1:], NOW) == []
    assert Limits(max_age=1).outdated(stamps, NOW) == stamps[:1]


@settings(suppress_health_check=[HealthCheck.too_slow])  # beside a busy suite
@given(
    some.lists(some.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)), unique=True),
    some.none() | some.integers(1, 5),
    some.none() | some.floats(0.01, 5000),
)
def test_the_newest_stays_whatever_the_limits(
    times: list[datetime], keep: int | None, max_age: float | None
) -> None:
    stamps = [time.strftime("%Y%m%dT%H%M%S%fZ") for time in times]
    old = Limits(keep, max_age).outdated(stamps, NOW)
    assert not stamps or max(stamps) not in old
    assert set(old) <= set(stamps)


@pytest.mark.parametrize(
    "wrong",
    [
        {"keep": 0},
        {"keep": True},
        {"keep": 1.5},
        {"max_age": 0},
        {"max_age": True},
        {"max_age": float("nan")},
        {"max_age": 1e300},
        {"max_age": timedelta(0)},
        {"max_age": "30 days"},
    ],
)
def test_a_wrong_limit_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        Limits(**wrong)

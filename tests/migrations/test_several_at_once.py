"""Several env.py of one history run at once in a process, and each does what it would do alone."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest
from support.process_state import unchanged_process
from support.tenants import Tenants, Turnstile, turnstile

from automigrator import Report

EIGHT = [*"abcdefgh"]


@pytest.fixture
def passed() -> Iterator[Turnstile]:
    with turnstile() as made:
        yield made


def outcomes(reports: list[Report | BaseException]) -> list[str]:
    return [each.outcome if isinstance(each, Report) else repr(each) for each in reports]


async def observed(tenants: Tenants) -> None:
    """Bring a tenant of which the others' migrations learn what env.py does."""
    tenants.emptied(["first"])
    assert (await tenants.brought("first")).outcome == "migrated"
    tenants.emptied(["first"])


async def repeated(tenants: Tenants, names: list[str], rounds: int, expected: object) -> None:
    await observed(tenants)
    for _ in range(rounds):
        tenants.emptied(names)
        reports = await tenants.all_brought(names)
        assert outcomes(reports) == ["migrated"] * len(names)
        assert tenants.content(names) == expected


@pytest.mark.long("60", "two-async")
@pytest.mark.parametrize("rounds", [1, 60])
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("count", [2, 8], ids=["two", "eight"])
async def test_every_file_is_what_plain_alembic_makes_of_it(
    count: int, kind: str, rounds: int, passed: Turnstile, tmp_path: Path
) -> None:
    tenants, names = Tenants(tmp_path, kind), EIGHT[:count]
    with unchanged_process():
        await repeated(tenants, names, rounds, tenants.plainly(names))
    assert passed.together == {frozenset(each) for each in combinations(names, 2)}


@pytest.mark.long("60", "eight", "two-sync")
@pytest.mark.parametrize("rounds", [1, 60])
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("count", [2, 8], ids=["two", "eight"])
async def test_every_schema_is_what_plain_alembic_makes_of_it(
    count: int, kind: str, rounds: int, passed: Turnstile, tmp_path: Path, postgres_url: str
) -> None:
    tenants, names = Tenants(tmp_path, kind, postgres_url), EIGHT[:count]
    expected = tenants.plainly(names, postgres_url)
    with unchanged_process():
        await repeated(tenants, names, rounds, expected)
    assert passed.together == {frozenset(each) for each in combinations(names, 2)}

"""Tenants of one application in schemas of one database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.tenants import Tenants

from automigrator.cohort import Cohort


@pytest.fixture
def tenants(tmp_path: Path, postgres_url: str) -> Tenants:
    return Tenants(tmp_path, postgres_url)


@pytest.fixture
async def cohort() -> AsyncIterator[Cohort]:
    async with Cohort() as made:
        yield made

"""Tenants of one history, in databases of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.replayed_tenants import Tenants, lending_files


@pytest.fixture(params=["sqlite", "postgresql"])
def tenants(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tenants]:
    with ExitStack() as stack:
        if request.param == "sqlite":
            lent = lending_files(tmp_path)
        else:
            lent = request.getfixturevalue("empty_databases").lent
        yield Tenants(tmp_path, request.param, lent, stack)


@pytest.fixture
def postgres_tenants(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tenants]:
    with ExitStack() as stack:
        lent = request.getfixturevalue("empty_databases").lent
        yield Tenants(tmp_path, "postgresql", lent, stack)


@pytest.fixture
def sqlite_tenants(tmp_path: Path) -> Tenants:
    return Tenants(tmp_path, "sqlite", lending_files(tmp_path), ExitStack())

"""A second database beside each test's own, and the results that become the table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.table import Row


@pytest.fixture(scope="session")
def results() -> list[Row]:
    """One row of the table for each history and database, in the order they ran."""
    return []


@pytest.fixture
def another_database_url(
    database_url: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[str]:
    """An empty database of the same kind, for plain Alembic."""
    if database_url.startswith("sqlite"):
        yield f"sqlite:///{tmp_path / 'plain.db'}"
        return
    server = request.getfixturevalue("postgres_server")
    name = f"{sa.make_url(database_url).database}_plain"
    server.create(name)
    yield server.url(name)
    server.drop(name)

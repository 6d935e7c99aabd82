"""Fleets of SQLite files, and of schemas of one PostgreSQL database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import fleets

from automigrator.fleet import Fleet, files


@pytest.fixture
def ini(tmp_path: Path) -> Path:
    """The history of the tenants: r1 to r3."""
    return fleets.history(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the tenants' files are."""
    return tmp_path / "tenants"


@pytest.fixture
def control(tmp_path: Path) -> str:
    """The URL of a file for the ledger."""
    return f"sqlite+aiosqlite:///{tmp_path / 'control.sqlite'}"


@pytest.fixture
def fleet_of(ini: Path, folder: Path) -> Callable[..., Fleet]:
    """`fleet_of("a", "b", **options of Fleet)`: a fleet of SQLite files of these names."""

    def make(*names: str, **options: Any) -> Fleet:
        fleets.with_files(folder, names)
        return Fleet(files(folder, ini), **{"mode": "migrate", **options})

    return make


@pytest.fixture
def url(empty_databases: Any) -> Iterator[str]:
    """A PostgreSQL database for schemas."""
    with empty_databases.lent() as url:
        yield url


@pytest.fixture
def execute(empty_databases: Any, url: str) -> Callable[[str], Any]:
    """Runs SQL in that database."""
    name = url.rpartition("/")[2]
    return lambda sql: empty_databases.server.execute(sql, database=name)

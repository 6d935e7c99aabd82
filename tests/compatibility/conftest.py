"""The code before the move and this code, each ready to start the same application."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from compatibility.applications import Deployed
from compatibility.release import Release, extract, serving


@pytest.fixture(scope="session")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """The code of the last commit before the move."""
    folder = tmp_path_factory.mktemp("before")
    if why_not := extract(folder):
        pytest.skip(why_not)
    with serving(folder) as release:
        yield release


@pytest.fixture(scope="session")
def new() -> Iterator[Release]:
    """This code."""
    with serving() as release:
        yield release


@pytest.fixture(params=["old then new", "new then old"])
def both(request: pytest.FixtureRequest, old: Release, new: Release) -> tuple[Release, Release]:
    """The two releases in the order in which they start: a deployment may be rolled back."""
    return (old, new) if request.param == "old then new" else (new, old)


@pytest.fixture
def app(tmp_path: Path, database_url: str) -> Deployed:
    """An application with notes in its database, on both databases."""
    return Deployed(tmp_path, database_url)


@pytest.fixture(params=["sqlite", "template", "dump"])
def copied(request: pytest.FixtureRequest, tmp_path: Path) -> Deployed:
    """An application for each way of copying a database."""
    kind = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    return Deployed(tmp_path, request.getfixturevalue(kind), copy=request.param)

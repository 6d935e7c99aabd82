"""Applications that real processes start, and are killed in; one server of processes for all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from compatibility.applications import Deployed
from compatibility.release import Release, serving


@pytest.fixture(scope="session")
def new() -> Iterator[Release]:
    """This code, in processes that can be killed."""
    with serving() as release:
        yield release


@pytest.fixture(params=["sqlite", "template", "dump"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Deployed:
    """An application for each way of copying a database."""
    kind = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    return Deployed(tmp_path, request.getfixturevalue(kind), copy=request.param)

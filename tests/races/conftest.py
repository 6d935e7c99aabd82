"""Applications to start many times at once, on both databases."""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import postgres_server as _postgres
import pytest
from raced_application import Raced


@pytest.fixture(params=["sqlite", "postgresql"])
def kind_of_database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def new_application(
    kind_of_database: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[..., Raced]]:
    """Applications with a database of their own each."""
    made: list[str] = []

    def make(*, absent: bool = False, **options: Any) -> Raced:
        name = f"am_{uuid.uuid4().hex[:12]}"
        if kind_of_database == "sqlite":
            (tmp_path / name).mkdir()
            return Raced(
                tmp_path / name, f"sqlite+aiosqlite:///{tmp_path / name / 'app.db'}", **options
            )
        server: _postgres.Server = request.getfixturevalue("postgres_server")
        if not absent:
            server.create(name)
        made.append(name)
        return Raced(tmp_path / name, server.url(name), **options)

    yield make
    for name in made:
        request.getfixturevalue("postgres_server").drop_all(name)


@pytest.fixture
def raced(new_application: Callable[..., Raced]) -> Raced:
    return new_application()


@pytest.fixture
def seed() -> int:
    """Printed, so that a failed round can be run again; AUTOMIGRATOR_SEED repeats one."""
    chosen = int(os.environ.get("AUTOMIGRATOR_SEED", random.randrange(10**6)))
    print(f"AUTOMIGRATOR_SEED={chosen}")
    return chosen

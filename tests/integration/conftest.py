"""What the tests of the public face share: projects for a database, an application's logging."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import alembic_projects as _projects
import pytest
from sqlalchemy import make_url

from automigrator import Target


@pytest.fixture
def other_url(database_url: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A second database of the kind of `database_url`: the one a configuration wrongly names."""
    if make_url(database_url).get_backend_name() == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'other.db'}"
        return
    server = request.getfixturevalue("postgres_server")
    name = f"am_{uuid.uuid4().hex[:12]}"
    server.create(name)
    yield server.url(name)
    server.drop_all(name)


@pytest.fixture
def versions(tmp_path: Path) -> Path:
    """The folder of revisions that `make_target` uses."""
    return tmp_path / "migrations" / "versions"


@pytest.fixture
def make_target(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Target]:
    """`make_target(revisions, kind=…, database=…, **options of Target)`, by default an async
    env.py with `linear` on `database_url`; a second call needs another `folder`."""

    def make(
        revisions: Callable[[Path], object] = _projects.linear,
        *,
        kind: str = "async",
        database: Any = None,
        folder: str = "",
        **options: Any,
    ) -> Target:
        if database is None:
            database = request.getfixturevalue("database_url")
        url = str(getattr(database, "url", database))
        made = _projects.project(tmp_path / folder, kind, url, revisions=revisions)
        return Target(database, made.config, **{**made.options, **options})

    return make


@pytest.fixture(autouse=True)
def application_logger() -> Iterator[logging.Logger]:
    """A logger the application has configured, as every run finds it."""
    logger = logging.getLogger("the.application")
    handler = logging.NullHandler()
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    yield logger
    logger.removeHandler(handler)

"""What the gate's tests share: a database, and gates around it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import alembic_projects as projects

from automigrator import Migrator, Target
from automigrator.asgi import Gate

SLOW = "import time\ntime.sleep(0.4)\nop.execute('CREATE TABLE slow (id INTEGER)')"


def slow(folder: Path) -> None:
    projects.revision(folder, "r1", None, upgrade=SLOW)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'app.db'}"


@pytest.fixture
def database_url(url: str) -> str:
    return url


@pytest.fixture
def gate_of(make_target: Callable[..., Target]) -> Callable[..., Gate]:
    """`gate_of(app, revisions, mode=…, **options of Gate)`; names are shown to everybody.

    `kind` is the class of the migrator, `more` are its options.
    """

    def make(
        app: Any,
        revisions: Any = slow,
        *,
        mode: Any = "migrate",
        kind: type[Migrator] = Migrator,
        more: Any = None,
        **options: Any,
    ) -> Gate:
        given = {"mode": mode, "announce": False, **(more or {})}
        migrator = kind(make_target(revisions), **given)
        return Gate(app, migrator, **{"details": True, "head_start": 0.0, **options})

    return make

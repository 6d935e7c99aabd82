"""Applications to start many times at once, on both databases."""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import postgres_server as _postgres
from support.raced_application import FULL, Raced
from support.table import Row, Table

TABLE = Table(
    "locking.md",
    "nox -s races -- --write-table",
    ("what many processes at once show", "database", "rounds", "as it says"),
)
_FOUND = pytest.StashKey[dict[tuple[str, str], list[tuple[bool, str]]]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, Any]:
    """Count each test's rounds; what a test records as its `result` is told in their place."""
    report = yield
    if isinstance(item, pytest.Function) and (report.when == "call" or report.failed):
        says = item.originalname.removeprefix("test_").replace("_", " ")
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        found = item.session.stash.setdefault(_FOUND, {})
        rounds = found.setdefault((says, parameters.get("kind_of_database", "postgresql")), [])
        rounds.append((report.passed, dict(report.user_properties).get("result", "")))
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    found = session.stash.get(_FOUND, None)
    if not FULL or not found:
        return
    rows: list[Row] = []
    for (says, database), rounds in found.items():
        right = f"{sum(passed for passed, _ in rounds)} of {len(rounds)}"
        results = [result for _, result in rounds if result]
        rows.append((says, database, str(len(rounds)), "; ".join(results) or right))
    print("", TABLE.rendered(rows), sep="\n")
    if session.config.getoption("--write-table"):
        TABLE.write(rows)


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

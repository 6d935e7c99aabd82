"""Real databases for every test: a SQLite file, and a PostgreSQL server once a session."""

from __future__ import annotations

import gc
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import notes_application as _notes
from support import postgres_server as _postgres
from support.declared_events import misfit

from automigrator import Migrator, Report
from automigrator.cohort import Cohort
from automigrator.events.notifier import Notifier
from automigrator.migrations.common_history import CommonHistories
from automigrator.runner.commons import in_common

pytest_plugins = ["support.canary_channels"]

gc.disable()  # until all is collected: a third of that time

_MEMORY = Path("/dev/shm")
_ROOM = 2 << 30


def _keep_temporary_files_in_memory() -> None:
    """Most of the suite's time went into files on a disk; TMPDIR names another place."""
    if "TMPDIR" in os.environ or not os.access(_MEMORY, os.W_OK):
        return
    executable = not os.statvfs(_MEMORY).f_flag & os.ST_NOEXEC
    if executable and shutil.disk_usage(_MEMORY).free >= _ROOM:
        os.environ["TMPDIR"] = str(_MEMORY)
        tempfile.tempdir = None  # asked for again


_keep_temporary_files_in_memory()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-table", action="store_true", help="write the results of a long run into docs/"
    )
    parser.addoption("--long", action="store_true", help="run the tests marked `long` as well")
    parser.addoption(
        "--cohort", action="store_true", help="let every `Migrator.run()` go on in a Cohort"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave what takes long to `nox -s long`, unless it is named."""
    if config.getoption("--long") or any("::" in each for each in config.args):
        return
    config.hook.pytest_deselected(items=[item for item in items if _is_long(item)])
    items[:] = [item for item in items if not _is_long(item)]


def pytest_collection_finish() -> None:
    gc.enable()


def _is_long(item: pytest.Item) -> bool:
    """Marked `long`, or marked so for variants of which this is one."""
    marks = list(item.iter_markers("long"))
    return any(not mark.args or any(word in item.name for word in mark.args) for mark in marks)


@pytest.fixture(autouse=True)
def cohorts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `--cohort` every run is one of a Cohort, which knows the histories of those before."""
    if request.config.getoption("--cohort"):
        monkeypatch.setattr(Migrator, "run", _run_in_cohort)


_run, _histories = Migrator.run, CommonHistories()


async def _run_in_cohort(migrator: Migrator, *, mode: Any = None) -> Report:
    if in_common.get() is not None:
        return await _run(migrator, mode=mode)
    async with Cohort() as cohort:
        cohort._commons.histories = _histories
        with cohort._shared():
            return await _run(migrator, mode=mode)


@pytest.fixture(autouse=True)
def declared_events(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every event that a test provokes is in the catalogue, with its keys, in JSON types."""
    wrong: dict[str, None] = {}
    tell = Notifier.__call__

    def checked(
        self: Notifier, name: str, target: str | None = None, /, *, told: object = None, **data: Any
    ) -> None:
        if problem := misfit(name, data):
            wrong[problem] = None
        elif json.loads(json.dumps(data, default=repr)) != data:
            wrong[f"the event {name!r} carries what is not of a JSON type: {data}"] = None
        tell(self, name, target, told=told, **data)

    monkeypatch.setattr(Notifier, "__call__", checked)
    yield
    assert not wrong, "\n".join(wrong)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[_postgres.Server]:
    with _postgres.running() as server:
        yield server


@pytest.fixture
def postgres_name(postgres_server: _postgres.Server) -> Iterator[str]:
    """The name of a database that does not exist; dropped afterwards with all that start so."""
    name = f"am_{uuid.uuid4().hex[:12]}"
    yield name
    postgres_server.drop_all(name)


@pytest.fixture
def postgres_url(postgres_server: _postgres.Server) -> Iterator[str]:
    """The URL of an empty database; not the one named by `postgres_name`."""
    name = f"am_{uuid.uuid4().hex[:12]}"
    postgres_server.create(name)
    yield postgres_server.url(name)
    postgres_server.drop_all(name)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a file that does not exist."""
    return f"sqlite+aiosqlite:///{tmp_path / 'app.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database of each kind."""
    kind = {"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param]
    return str(request.getfixturevalue(kind))


@pytest.fixture
def notes(tmp_path: Path, database_url: str) -> _notes.Application:
    """An application that has started once, with notes in its database."""
    return _notes.Application(tmp_path, database_url)

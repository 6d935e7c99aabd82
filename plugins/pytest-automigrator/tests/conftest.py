"""A user's project in pytester's folder, and sessions of pytest in it."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from support import alembic_projects

INI = "[pytest]\naddopts = -p no:randomly\nasyncio_mode = auto\n"
INI += "asyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
COUNTING = "\nwith open({path!r}, 'a') as file:\n    file.write('ran ')\n"


class Project:
    """An Alembic project with a pytest.ini, and what its sessions do.

    `versions`: where its revisions are.
    """

    def __init__(self, pytester: pytest.Pytester) -> None:
        self._pytester = pytester
        self.folder = pytester.path
        self.versions = self.folder / "migrations" / "versions"
        self._ran = self.folder / "ran"

    def lay(self, revisions: Callable[[Path], object] = alembic_projects.linear) -> None:
        """Make it; its env.py notes whenever it is run."""
        url = "sqlite:///unused.db"
        alembic_projects.project(
            self.folder, "generic", url, revisions=revisions, other_url="sqlite:///unused.db"
        )
        with (self.folder / "migrations" / "env.py").open("a") as file:
            file.write(COUNTING.format(path=str(self._ran)))
        self.configure()

    def configure(self, **options: str) -> None:
        """Write options into pytest.ini, each without `automigrator_`."""
        lines = [f"automigrator_{name} = {value}\n" for name, value in options.items()]
        (self.folder / "pytest.ini").write_text(INI + "".join(lines))

    def revision(self, id: str, down: str | None, **parts: Any) -> None:
        """Write a revision; see `alembic_projects.revision`."""
        alembic_projects.revision(self.versions, id, down, **parts)

    def ran(self) -> int:
        """How often env.py was run since the last time."""
        count = self._ran.read_text().count("ran") if self._ran.exists() else 0
        self._ran.unlink(missing_ok=True)
        return count

    def python(self, code: str) -> int:
        """The exit code of a program that runs in the project's folder."""
        command = [sys.executable, "-W", "ignore", "-c", code]
        return subprocess.run(command, cwd=self.folder, capture_output=True, check=False).returncode

    def run(self, source: str = "", *arguments: str) -> pytest.RunResult:
        """A session in this process, with these tests."""
        if source:
            self._pytester.makepyfile(test_it=source)
        # each session would import what another plugin imports at its end
        others = ("no:xdist", "no:hypothesispytest", "no:anyio")
        off = [part for other in others for part in ("-p", other)]
        return self._pytester.runpytest_inprocess(*off, *arguments)

    def run_apart(self, source: str = "", *arguments: str) -> pytest.RunResult:
        """A session in a process of its own."""
        if source:
            self._pytester.makepyfile(test_it=source)
        return self._pytester.runpytest_subprocess(*arguments)


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where sessions keep their templates: nobody's real cache."""
    monkeypatch.setenv("AUTOMIGRATOR_PYTEST_CACHE", str(tmp_path))
    for variable in ("AUTOMIGRATOR_TEST_POSTGRES", "DATABASE_URL", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


@pytest.fixture
def project(pytester: pytest.Pytester, cache_folder: Path) -> Project:
    """A project that is laid when a test says so."""
    return Project(pytester)


@pytest.fixture
def role(postgres_server: Any) -> Iterator[str]:
    """The URL of a role that may create databases; all that it owns is dropped afterwards."""
    name = f"am_{uuid.uuid4().hex[:12]}"
    postgres_server.execute(f"create role {name} login createdb password 'secret'")
    url = make_url(postgres_server.url(postgres_server.maintenance_database))
    shown = url.set(drivername="postgresql", username=name, password="secret")
    yield shown.render_as_string(hide_password=False)
    sql = "select datname::text from pg_database join pg_roles r on r.oid = datdba"
    for (database,) in postgres_server.execute(f"{sql} where rolname = $1", name):
        postgres_server.drop(database)
    postgres_server.execute(f"drop role {name}")

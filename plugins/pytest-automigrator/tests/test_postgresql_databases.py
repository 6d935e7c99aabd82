"""The fixtures on PostgreSQL: a server that is named, and one that is started."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

pytest_plugins = "pytester"

PREFIX = "automigrator_pytest_"
INSERTING = """
import pytest
from sqlalchemy import text

@pytest.mark.parametrize("n", range(4))
def test_a_row(migrated_engine, n):
    with migrated_engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM users")).scalar() == 0
        connection.execute(text("INSERT INTO users (name) VALUES ('x')"))
"""


def owned(server: Any, role: str) -> list[str]:
    sql = "select datname::text from pg_database join pg_roles r on r.oid = datdba"
    name = make_url(role).username
    return [row[0] for row in server.execute(f"{sql} where rolname = $1 order by 1", name)]


@pytest.fixture
def served(project: Any, role: str) -> Any:
    """A project whose tests run on the suite's server, as a role of its own."""
    project.lay()
    project.configure(database="postgresql", postgresql=role)
    return project


def test_each_test_has_a_clone_and_only_the_template_stays(
    served: Any, role: str, postgres_server: Any
) -> None:
    served.run(INSERTING).assert_outcomes(passed=4)
    (template,) = owned(postgres_server, role)
    assert re.fullmatch(PREFIX + "[0-9a-f]{24}", template)
    assert served.ran() > 0
    served.run(INSERTING).assert_outcomes(passed=4)
    assert served.ran() == 0 and owned(postgres_server, role) == [template]


def test_what_killed_sessions_left_is_dropped_and_what_running_ones_use_is_not(
    served: Any, role: str, postgres_server: Any
) -> None:
    """A killed session holds its lock no more."""
    source = """
    import os
    def test_it(at_revision, migrated_database):
        at_revision("r1")
        os.kill(os.getpid(), 9)
    """
    served.run_apart(source)
    left = owned(postgres_server, role)
    assert len([name for name in left if name.count("_") > 2]) == 2
    source = """
    import os, subprocess, sys
    def test_it(migrated_engine):
        if "INNER" not in os.environ:
            inner = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "test_it.py"]
            subprocess.run(inner, env={**os.environ, "INNER": "1"}, check=True)
        migrated_engine.connect().close()
    """
    served.run(source).assert_outcomes(passed=1)
    assert all(name.count("_") == 2 for name in owned(postgres_server, role))


@pytest.mark.long
def test_a_half_made_template_is_made_anew(served: Any, role: str, postgres_server: Any) -> None:
    served.run(INSERTING)
    (template,) = owned(postgres_server, role)
    postgres_server.execute(f'alter database "{template}" rename to "{template}_making"')
    served.run(INSERTING).assert_outcomes(passed=4)
    assert owned(postgres_server, role) == [template]


def test_a_template_that_is_used_again_after_weeks_stays_and_an_unused_one_goes(
    served: Any, role: str, postgres_server: Any
) -> None:
    served.run(INSERTING)
    (template,) = owned(postgres_server, role)
    unused = f"{PREFIX}{'f' * 24}"
    postgres_server.execute(f'create database "{unused}" owner "{make_url(role).username}"')
    postgres_server.execute(f"comment on database \"{template}\" is 'forgotten'")
    served.ran()
    served.run(INSERTING).assert_outcomes(passed=4)
    assert served.ran() == 0 and owned(postgres_server, role) == [template]


def test_another_roles_database_is_not_used_as_a_template(
    served: Any, role: str, postgres_server: Any
) -> None:
    served.run(INSERTING)
    (template,) = owned(postgres_server, role)
    postgres_server.execute(f'alter database "{template}" owner to postgres')
    try:
        result = served.run(INSERTING)
        result.assert_outcomes(errors=4)
        result.stdout.fnmatch_lines(["*belongs to another role; it is not used*"])
        assert "secret" not in result.stdout.str()
    finally:
        postgres_server.drop(template)


def test_another_roles_database_of_such_a_name_is_left_alone(
    served: Any, role: str, postgres_server: Any
) -> None:
    name = f"{PREFIX}{uuid.uuid4().hex[:24]}"
    postgres_server.create(name)
    try:
        served.run(INSERTING).assert_outcomes(passed=4)
        assert postgres_server.databases(name) == [name]
    finally:
        postgres_server.drop(name)


def test_both_kinds_run_each_test_twice(project: Any, role: str) -> None:
    project.lay()
    project.configure(database="both", postgresql=role)
    result = project.run(INSERTING, "-v")
    result.assert_outcomes(passed=8)
    result.stdout.fnmatch_lines(["*sqlite*", "*postgresql*"])


@pytest.mark.long
def test_data_is_migrated_in_a_loop_and_a_transaction_is_rolled_back(served: Any) -> None:
    source = """
    from sqlalchemy import text
    async def test_it(at_revision, migrated_async_engine):
        database = at_revision("r1")
        database.execute("INSERT INTO users (name) VALUES ('a')")
        assert database.upgrade().outcome == "migrated"
        assert database.rows("SELECT name, email FROM users") == [("a", None)]
        async with migrated_async_engine.connect() as connection:
            assert (await connection.execute(text("SELECT count(*) FROM users"))).scalar() == 0

    def test_connection(migrated_connection):
        migrated_connection.execute(text("DROP TABLE posts"))
    """
    served.run(f"{source}\n    test_again = test_connection\n").assert_outcomes(passed=3)


@pytest.mark.long
def test_clear_drops_the_templates(served: Any, role: str, postgres_server: Any) -> None:
    served.run(INSERTING)
    assert served.run("", "--automigrator-clear").ret == 0
    assert owned(postgres_server, role) == []


@pytest.fixture
def reachable_folder(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache that an unprivileged user can reach: PostgreSQL runs as one, where this is root."""
    with tempfile.TemporaryDirectory(prefix="automigrator-cache-") as folder:
        os.chmod(folder, 0o711)
        monkeypatch.setenv("AUTOMIGRATOR_PYTEST_CACHE", folder)
        yield Path(folder)


@pytest.mark.long
def test_a_server_is_started_shared_by_workers_and_stopped_after_the_last(
    project: Any, reachable_folder: Path
) -> None:
    project.lay()
    project.configure(database="postgresql")
    project.run_apart(INSERTING, "-n", "2").assert_outcomes(passed=4)
    (folder,) = reachable_folder.glob("automigrator-pytest-*/postgresql-*")
    assert stopped(folder)
    project.ran()
    project.run_apart(INSERTING, "-p", "no:xdist").assert_outcomes(passed=4)
    assert project.ran() == 0, "the second session has not used the template of the first"
    killing = "import os\ndef test_it(migrated_database): os.kill(os.getpid(), 9)"
    project.run_apart(killing, "-p", "no:xdist")
    assert stopped(folder), "the server of a killed session goes on"
    assert project.run("", "--automigrator-clear").ret == 0
    assert not folder.exists()


def stopped(folder: Path) -> bool:
    """Whether the server's keeper ends, and with it the server, within a minute."""
    descriptor = os.open(folder / "keeper.lock", os.O_RDWR)
    try:
        for _ in range(600):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.1)
            else:
                return not (folder / "data" / "postmaster.pid").exists()
        return False
    finally:
        os.close(descriptor)

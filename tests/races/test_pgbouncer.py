"""Behind PgBouncer: a lock is refused where it would be an illusion, and taken where it is real."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import make_url
from support import postgres_server
from support.notes_application import GOOD, ROWS
from support.raced_application import FULL, PROCESSES, Raced, outcomes

BINARY = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")

pytestmark = [
    pytest.mark.skipif(BINARY is None, reason="pgbouncer is not installed"),
    pytest.mark.parametrize("kind_of_database", ["postgresql"]),
    pytest.mark.long("session_mode"),
]

# asyncpg's prepared statements outlive a transaction, in which the pooler gave it its session
UNPREPARED = {"connect_args": {"statement_cache_size": 0, "prepared_statement_cache_size": 0}}


@contextmanager
def pooled(url: str, folder: Path, mode: str) -> Iterator[str]:
    """The URL of the same database through a pooler in this mode."""
    assert BINARY is not None
    direct = make_url(url)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir()
    users = folder / "users"
    users.write_text(f'"{direct.username}" "{direct.password or ""}"\n')
    (folder / "ini").write_text(
        f"""
[databases]
* = host={direct.host} port={direct.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = {"plain" if direct.password else "trust"}
auth_file = {users}
pool_mode = {mode}
default_pool_size = 5
"""
    )
    user = postgres_server.unprivileged()
    if user:
        for each in (folder, *folder.iterdir()):
            os.chown(each, user["user"], user["group"])
    with (folder.with_suffix(".log")).open("wb") as log:
        process = subprocess.Popen(
            [BINARY, folder / "ini"],
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            **user,
        )
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
        yield direct.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def pooler_folder() -> Iterator[Path]:
    """One that an unprivileged user can reach, as pytest's own is not."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="automigrator-pgbouncer-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder) / "pooler"


def test_transaction_mode_is_refused_and_a_direct_url_for_migrations_is_the_way_out(
    raced: Raced, pooler_folder: Path
) -> None:
    raced.traced(GOOD)
    direct = raced.url
    with pooled(direct, pooler_folder, "transaction") as url:
        raced.url = url
        refused = raced.together(raced.start_of(engine=UNPREPARED, lock_timeout=10))
        assert outcomes(refused) == {"failed": PROCESSES}
        for each in refused:
            assert each.kinds == ["unreachable"]
            assert "pooler in transaction mode" in each.text
            assert "Target(migrate_with=" in each.text
        assert raced.trace == []
        raced.url = url
        ended = raced.together(raced.start_of(engine=UNPREPARED, migrate_with=direct))
        assert outcomes(ended) == {"current": PROCESSES - 1, "migrated": 1}
    raced.url = direct
    assert (raced.heads, raced.notes()) == ({"r2"}, ROWS)


def test_session_mode_is_as_good_as_no_pooler_even_with_fewer_sessions_than_processes(
    raced: Raced, pooler_folder: Path
) -> None:
    raced.traced(GOOD)
    direct = raced.url
    with pooled(direct, pooler_folder, "session") as url:
        raced.url = url
        ended = raced.together(raced.start_of(), 8 if FULL else 1)
    raced.url = direct
    assert outcomes(ended).pop("migrated") == 1
    assert {each.outcome for each in ended} <= {"migrated", "current"}, ended
    assert raced.heads == {"r2"}

"""SQLite files for tests: made, damaged, written to by others, compared."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from automigrator.backends.sqlite import backup, reader
from automigrator.backends.sqlite.copying import overwrite

MODES = ("wal", "delete")
NOW = datetime(2026, 11, 24, 5, 15, tzinfo=UTC)
DAMAGE = ("truncated", "text", "short text", "random", "bad magic")
# two rows on distant pages that are equal at every commit
WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
while True:
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE item SET n = n + 1 WHERE id = 1")
        connection.execute("UPDATE item SET n = n + 1 WHERE id = 3000")
        connection.execute("COMMIT")
    except sqlite3.OperationalError:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    print(connection.execute("SELECT 1").fetchone()[0], flush=True)
"""


@contextmanager
def waiting(seconds: float) -> Iterator[None]:
    """Context manager: whatever waits for other connections gives up after so many seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "BUSY_S", seconds)
        patch.setattr(reader, "SNAPSHOT_S", seconds)
        patch.setattr(backup, "COPY_S", seconds)
        patch.setattr(overwrite, "WAIT_S", seconds)
        yield


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=0, check_same_thread=False)


def make(
    path: Path, mode: str = "delete", rows: int = 3000, page_size: int = 4096, version: str = "a1"
) -> Path:
    with closing(connect(path)) as connection:
        connection.execute(f"PRAGMA page_size={page_size}")
        connection.execute(f"PRAGMA journal_mode={mode}")
        connection.executescript(
            "BEGIN; CREATE TABLE item(id INTEGER PRIMARY KEY, n INTEGER, body BLOB);"
            "CREATE TABLE alembic_version(version_num VARCHAR(32) NOT NULL);"
            f"INSERT INTO alembic_version VALUES ('{version}'); COMMIT;"
        )
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO item VALUES (?, 0, ?)",
            ((i, bytes([i % 251]) * 4000) for i in range(1, rows + 1)),
        )
        connection.execute("COMMIT")
    return path


def checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with closing(connect(path)) as connection:
        for row in connection.execute("SELECT * FROM item ORDER BY id"):
            digest.update(repr(row).encode())
    return digest.hexdigest()


def version(path: Path) -> tuple[str, ...]:
    with closing(connect(path)) as connection:
        return tuple(row[0] for row in connection.execute("SELECT * FROM alembic_version"))


def journal_mode(path: Path) -> str:
    with closing(connect(path)) as connection:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def change(path: Path) -> None:
    with closing(connect(path)) as connection:
        connection.executescript(
            "UPDATE alembic_version SET version_num = 'b2'; DELETE FROM item WHERE id > 10;"
            "CREATE TABLE extra(x)"
        )


def damage(path: Path, how: str) -> None:
    whole = path.read_bytes()
    path.write_bytes(
        {
            "truncated": whole[: len(whole) // 2],
            "text": b"this is not a database\n" * 1000,
            "short text": b"hello",
            "random": os.urandom(50_000),
            "bad magic": b"XXXXXX" + whole[6:],
            "zero bytes": b"",
        }[how]
    )


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@contextmanager
def busy_writer(path: Path, where: str) -> Iterator[None]:
    if where == "process":
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(5):
                process.stdout.readline()
            drain = threading.Thread(target=process.stdout.read)
            drain.start()
            try:
                yield
                assert process.poll() is None, "the writer died"
            finally:
                process.send_signal(signal.SIGKILL)
                drain.join()
        return

    stop, started = threading.Event(), threading.Event()

    def write() -> None:
        with closing(connect(path)) as connection:
            while not stop.is_set():
                try:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.execute("UPDATE item SET n = n + 1 WHERE id = 1")
                    connection.execute("UPDATE item SET n = n + 1 WHERE id = 3000")
                    connection.execute("COMMIT")
                    started.set()
                except sqlite3.OperationalError:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")

    thread = threading.Thread(target=write)
    thread.start()
    started.wait(10)
    try:
        yield
    finally:
        stop.set()
        thread.join()

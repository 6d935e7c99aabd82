"""A SQLite file whose rows tell whether they are of one moment, and processes that write to it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

CELLS = 400
"""Rows of a kilobyte, one or several of which each transaction changes."""

_WRITER = """
import random, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
connection.execute(f"PRAGMA journal_mode={{sys.argv[2]}}")
connection.execute("PRAGMA synchronous=OFF")
connection.execute("PRAGMA wal_autocheckpoint=20")
connection.execute("PRAGMA cache_size=10")  # spilled before the commit
def change():
    connection.execute("BEGIN IMMEDIATE")
    for _ in range(random.choice([1, 3, 40])):
        cell, value = random.randrange({cells}), random.randrange(1000)
        connection.execute("UPDATE total SET value = value - (SELECT value FROM cells "
                           "WHERE id = ?) + ?", (cell, value))
        connection.execute("UPDATE cells SET value = ?, filling = randomblob(1000) "
                           "WHERE id = ?", (value, cell))
    connection.execute("INSERT INTO log SELECT max(n) + 1 FROM log")
    connection.execute("ROLLBACK" if random.random() < 0.1 else "COMMIT")
while True:
    try:
        change()
    except sqlite3.OperationalError:  # another connection was in the way
        if connection.in_transaction:
            connection.execute("ROLLBACK")
"""

_CHECKPOINTER = """
import random, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0.05)
while True:
    kind = random.choice(["PASSIVE", "FULL", "RESTART", "TRUNCATE"])
    try:
        connection.execute(f"PRAGMA wal_checkpoint({kind})").fetchall()
    except sqlite3.OperationalError:
        pass
"""


def make(file: Path, mode: str) -> None:
    """Make the file, in a journal mode."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")
        connection.execute("BEGIN")
        for sql in (
            "CREATE TABLE cells (id INTEGER PRIMARY KEY, value INT, filling BLOB)",
            "CREATE INDEX by_value ON cells (value)",
            "CREATE TABLE total (value INT)",
            "CREATE TABLE log (n INTEGER PRIMARY KEY)",
            "INSERT INTO log VALUES (0)",
            "INSERT INTO total VALUES (0)",
        ):
            connection.execute(sql)
        rows = [(number,) for number in range(CELLS)]
        connection.executemany("INSERT INTO cells VALUES (?, 0, randomblob(1000))", rows)
        connection.execute("COMMIT")


@contextmanager
def written(file: Path, mode: str) -> Iterator[None]:
    """Context manager: two processes write to it in a journal mode, and one makes checkpoints."""
    programs = [_WRITER.format(cells=CELLS)] * 2 + [_CHECKPOINTER]
    processes = [
        subprocess.Popen([sys.executable, "-c", each, str(file), mode]) for each in programs
    ]
    try:
        while last(file) < 20:
            assert not any(each.poll() for each in processes), "a writer has failed"
        yield
        assert not any(each.poll() for each in processes), "a writer has failed"
    finally:
        for each in processes:
            each.kill()
            each.wait()


def last(file: Path) -> int:
    """The number of the last transaction that was committed."""
    with closing(sqlite3.connect(file, timeout=60)) as connection:
        return int(connection.execute("SELECT max(n) FROM log").fetchone()[0])


def checked(file: Path) -> int:
    """The same; raises AssertionError where what is there is not of one moment."""
    with closing(sqlite3.connect(file, isolation_level=None, timeout=60)) as connection:
        connection.execute("BEGIN")
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        (count, newest), (total,), (added, cells) = (
            connection.execute(sql).fetchone()
            for sql in (
                "SELECT count(*), max(n) FROM log",
                "SELECT value FROM total",
                "SELECT sum(value), count(*) FROM cells NOT INDEXED",
            )
        )
        assert (count, total, cells) == (newest + 1, added, CELLS)
        return int(newest)

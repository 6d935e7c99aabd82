"""Overwriting a live SQLite file in place, in one transaction, while nobody else can commit.

What is about to be overwritten can be set aside at a moment from which on nobody can add to it:
between a copy made before and the overwriting, others would go on writing, and lose it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from automigrator.backends.sqlite.files import remove
from automigrator.backends.sqlite.reader import (
    BUSY,
    DAMAGED,
    POLL_S,
    code_of,
    connect,
    give_up_if_late,
    wait_or_give_up,
)

PAGES_A_STEP = 1000

Keep = Callable[[sqlite3.Connection | None], Path | None]

"""Copies what is about to be overwritten and says where to, called when nobody can commit.

A connection is the only one that can read it at that moment; without one, any can.
"""


class UnfitError(Exception):
    """Raised when a live file cannot be overwritten in place; nobody can commit to it either."""


def overwrite(
    source: sqlite3.Connection,
    live: Path,
    keep: Keep,
    deadline_s: float,
    through: sqlite3.Connection | None = None,
) -> Path | None:
    """Make the pages of `source`, which is in a read transaction, those of the live file.

    A kill leaves it done or undone. `through` is an open connection to the live file that may be
    used; it may hold an exclusive lock until it is closed. Returns what `keep` does. Raises
    UnfitError, and TimeoutError when another connection is in the way; the live file is untouched
    then, and what was kept is gone.
    """
    with _at_least_two_pages(source) as source, closing(connect(live, "rw")) as own:
        return _overwrite(source, live, keep, deadline_s, own, through)


def _overwrite(
    source: sqlite3.Connection,
    live: Path,
    keep: Keep,
    deadline_s: float,
    own: sqlite3.Connection,
    through: sqlite3.Connection | None,
) -> Path | None:
    started = time.monotonic()

    def late() -> None:
        wait_or_give_up(started, deadline_s, live, "overwritten")

    _begin(own, "BEGIN EXCLUSIVE", late)
    # after BEGIN has found the file whole: a broken schema alone may be overwritten in place
    own.execute("PRAGMA writable_schema=ON")
    (mode,) = own.execute("PRAGMA journal_mode").fetchone()
    alike = _page_size(source) == _page_size(own)
    own.execute("ROLLBACK")
    if mode == "wal" and alike:
        # never `through`: SQLite forbids a backup's destination to be asked anything meanwhile
        return _with_write_lock(source, live, own, keep, started, deadline_s)
    target = own if through is None else through
    target.execute("PRAGMA writable_schema=ON")
    if mode != "wal":
        _begin(target, "BEGIN EXCLUSIVE", late)
        _keep_lock(target)
        target.execute("COMMIT")
        return _with_exclusive_lock(source, target, keep)
    # other pages cannot be written into a log: only where nobody else has the file open
    if target is not own:
        own.close()
    _keep_lock(target)
    _begin(target, "BEGIN IMMEDIATE", late)
    target.execute("COMMIT")
    return _with_exclusive_lock(source, target, keep, mode)


def _with_exclusive_lock(
    source: sqlite3.Connection, target: sqlite3.Connection, keep: Keep, mode: str | None = None
) -> Path | None:
    """The lock outlives each transaction, so that one connection can read and then overwrite."""
    kept = keep(target)
    try:
        if mode is not None:
            target.execute("PRAGMA journal_mode=DELETE")
        # EXTRA: a rollback journal that a power cut brings back would undo it
        target.execute("PRAGMA synchronous=EXTRA")
        source.backup(target, pages=-1, progress=_refuse_to_wait)
    except BaseException:
        _forget(kept)
        raise
    if mode is not None:
        with suppress(sqlite3.OperationalError):  # the contents are what matters
            target.execute(f"PRAGMA journal_mode={mode}")
    return kept


def _with_write_lock(
    source: sqlite3.Connection,
    live: Path,
    target: sqlite3.Connection,
    keep: Keep,
    started: float,
    deadline_s: float,
) -> Path | None:
    """From its first step on a backup holds the write lock, and a log lets others read on."""
    kept: list[Path | None] = []

    def after_step(status: int, remaining: int, total: int) -> None:
        if status in BUSY:
            give_up_if_late(started, deadline_s, live, "overwritten")
        elif not kept:
            kept.append(keep(None))

    target.execute("PRAGMA synchronous=EXTRA")
    pages = min(PAGES_A_STEP, _page_count(source) - 1)
    while True:
        try:
            source.backup(target, pages=pages, progress=after_step, sleep=POLL_S)
            return kept[0]
        except BaseException as error:
            for each in kept:
                _forget(each)  # others may have written since
            kept.clear()
            # backup() itself waits on the plain codes only, not on the extended ones
            if not isinstance(error, sqlite3.OperationalError) or code_of(error) not in BUSY:
                raise
            wait_or_give_up(started, deadline_s, live, "overwritten")


def _begin(target: sqlite3.Connection, statement: str, late: Callable[[], None]) -> None:
    while True:
        try:
            target.execute(statement)
            return
        except sqlite3.DatabaseError as error:
            if code_of(error) in DAMAGED:
                raise UnfitError(str(error)) from error
            if code_of(error) not in BUSY:
                raise
            late()


def _keep_lock(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA locking_mode=EXCLUSIVE")


def _refuse_to_wait(status: int, remaining: int, total: int) -> None:
    if status in BUSY:  # the lock is held already
        raise sqlite3.OperationalError("the live file is locked by this very process")


def _forget(kept: Path | None) -> None:
    if kept is not None:
        remove(kept)


@contextmanager
def _at_least_two_pages(source: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """A backup of one page would end with its first step, before anything could be kept."""
    if _page_count(source) > 1:
        yield source
        return
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as padded:
        source.backup(padded)
        padded.execute("CREATE TABLE padding (x)")
        padded.execute("DROP TABLE padding")
        yield padded


def _page_count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA page_count").fetchone()[0])


def _page_size(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA page_size").fetchone()[0])

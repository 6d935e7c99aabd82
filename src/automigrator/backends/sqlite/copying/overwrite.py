"""Overwriting a live SQLite file in place, in one transaction, while nobody else can commit.

What is about to be overwritten is kept at a moment from which on nobody can add to it: between a
copy made before and the overwriting, others would go on writing, and lose it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from automigrator.backends.sqlite import codes, files, reader
from automigrator.backends.sqlite.reader import Wait
from automigrator.support.owned_files import Owners

PAGES_A_STEP = 1000

WAIT_S = 30.0

"""Seconds for which a restore waits for other connections' transactions."""

Keep = Callable[[sqlite3.Connection | None], Path | None]

"""Copies what is about to be overwritten and returns where to; called when nobody can commit.

A connection is the only one that can read it at that moment; without one, any can.
"""


Claim = Callable[[Callable[[], object]], Callable[[], None]]
"""Is given how to ask for a connection's `data_version`: its commits are ours until the call."""


class UnfitError(Exception):
    """Raised when a live file cannot be overwritten in place; nobody can commit to it either."""


def overwrite(
    source: sqlite3.Connection,
    live: Path,
    keep: Keep,
    through: sqlite3.Connection | None,
    claim: Claim | None = None,
) -> Path | None:
    """Make the pages of `source`, which is in a read transaction, those of the live file.

    A kill leaves it done or undone. `through` is an open connection to the live file that may be
    used; it may hold an exclusive lock until it is closed. `claim`: what watches the file is told
    of commits of ours. Returns what `keep` does. Raises
    UnfitError, and TimeoutError when another connection is in the way; the live file is untouched
    then, and what was kept is gone.
    """
    wait = Wait(live, "overwritten", WAIT_S)
    with _at_least_two_pages(source) as source, closing(reader.connect(live, "rw")) as own:
        _begin(own, "BEGIN EXCLUSIVE", wait)
        # after BEGIN has found the file whole: a broken schema alone may be overwritten in place
        own.execute("PRAGMA writable_schema=ON")
        mode = _value(own, "journal_mode")
        alike = _value(source, "page_size") == _value(own, "page_size")
        own.execute("ROLLBACK")
        if mode == "wal" and alike:
            if claim is not None:
                _begin_log(own, claim, wait)
            # never `through`: SQLite forbids a backup's destination to be asked anything meanwhile
            return _with_write_lock(source, own, keep, wait)
        target = own if through is None else through
        target.execute("PRAGMA writable_schema=ON")
        if mode != "wal":
            _begin(target, "BEGIN EXCLUSIVE", wait)
            target.execute("PRAGMA locking_mode=EXCLUSIVE")
        else:
            # other pages cannot be written into a log: only where nobody else has the file open
            if target is not own:
                own.close()
            target.execute("PRAGMA locking_mode=EXCLUSIVE")
            _begin(target, "BEGIN IMMEDIATE", wait)
        target.execute("COMMIT")
        return _with_exclusive_lock(source, target, keep, mode)


def _with_exclusive_lock(
    source: sqlite3.Connection, target: sqlite3.Connection, keep: Keep, mode: str
) -> Path | None:
    """The lock outlives each transaction, so that one connection can read and then overwrite."""
    kept = keep(target)
    try:
        if mode == "wal":
            target.execute("PRAGMA journal_mode=DELETE")
        # EXTRA: a rollback journal that a power cut brings back would undo it
        target.execute("PRAGMA synchronous=EXTRA")
        source.backup(target, pages=-1, progress=_refuse_to_wait)
    except BaseException:
        if kept is not None:
            files.remove(kept, Owners.of(kept))
        raise
    if mode == "wal":
        with suppress(sqlite3.OperationalError):  # the contents are what matters
            target.execute("PRAGMA journal_mode=WAL")
    return kept


def _refuse_to_wait(status: int, remaining: int, total: int) -> None:
    if status in codes.BUSY:  # the lock is held already
        raise sqlite3.OperationalError("the live file is locked by this very process")


def _with_write_lock(
    source: sqlite3.Connection, target: sqlite3.Connection, keep: Keep, wait: Wait
) -> Path | None:
    """From its first step on a backup holds the write lock, and a log lets others read on."""
    kept: list[Path | None] = []

    def after_step(status: int, remaining: int, total: int) -> None:
        wait.after_step(status)
        if status not in codes.BUSY and not kept:
            kept.append(keep(None))

    def write() -> Path | None:
        kept.clear()
        try:
            source.backup(target, pages=pages, progress=after_step, sleep=reader.POLL_S)
            return kept[0]
        except BaseException:
            for each in filter(None, kept):
                files.remove(each, Owners.of(each))  # others may have written since
            raise

    target.execute("PRAGMA synchronous=EXTRA")
    pages = min(PAGES_A_STEP, _value(source, "page_count") - 1)
    # backup() itself waits on the plain codes only, not on the extended ones
    return wait.until_free(write)


def _begin_log(own: sqlite3.Connection, claim: Claim, wait: Wait) -> None:
    """Commit what changes nothing, so that the log has something that is not in the file yet.

    Else the backup begins the log anew, and that looks like a commit of others.
    """
    leave = claim(lambda: _value(own, "data_version"))
    try:
        _begin(own, "BEGIN IMMEDIATE", wait)
        own.execute(f"PRAGMA user_version = {_value(own, 'user_version')}")
        own.execute("COMMIT")
    finally:
        leave()


def _begin(target: sqlite3.Connection, statement: str, wait: Wait) -> None:
    try:
        wait.until_free(lambda: target.execute(statement))
    except sqlite3.DatabaseError as error:
        if codes.is_damage(error):
            raise UnfitError(str(error)) from error
        raise


@contextmanager
def _at_least_two_pages(source: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """A backup of one page would end with its first step, before anything could be kept."""
    if _value(source, "page_count") > 1:
        yield source
        return
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as padded:
        source.backup(padded)
        padded.execute("CREATE TABLE padding (x)")
        padded.execute("DROP TABLE padding")
        yield padded


def _value(connection: sqlite3.Connection, pragma: str) -> Any:
    return connection.execute(f"PRAGMA {pragma}").fetchone()[0]

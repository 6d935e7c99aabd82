"""The files beside a SQLite database, by their names: SQLite's own, and ours."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from automigrator.backends.contract.checksums import BEGINNING

_CHECKSUMS = ".automigrator-checksums.json"

SIDECARS = ("-wal", "-shm", "-journal")


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def journal_path(live: Path) -> Path:
    """Name our journal of a database: the same one whichever link leads to the database."""
    return beside(live.resolve(), ".automigrator-journal.json")


def progress_path(live: Path) -> Path:
    """Name the file that tells how far the migration of the journal came."""
    return beside(live.resolve(), ".automigrator-progress.json")


def checksums_path(live: Path) -> Path:
    """Name the file of the checksums of applied revisions."""
    return beside(live.resolve(), _CHECKSUMS)


def checksums_text(live: Path) -> str | None:
    """Return what that file says, where the database's own users have written it."""
    from automigrator.support.owned_files import NotOursError, Owners  # local: few starts read it

    with suppress(NotOursError, OSError, ValueError):
        return Owners.of(live).read(checksums_path(live)).decode()
    return None


def checksums_begin(live: Path) -> str | None:
    """Return the beginning of that text, which a look compares.

    Whose it is, is not asked: where it differs from the files, it is read anew, and that is.
    """
    path = os.path.realpath(live) + _CHECKSUMS
    with suppress(OSError, ValueError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            return os.read(descriptor, BEGINNING).decode()
        finally:
            os.close(descriptor)
    return None


def has_journal(live: Path) -> bool:
    """Tell whether a database has an open journal that its own users may have written."""
    path = journal_path(live)
    if not os.path.lexists(path):
        return False
    from automigrator.support.owned_files import Owners  # local: often there is none

    return Owners.of(live).whose(path) in ("ours", "doubtful")


def ensure_own_log(live: Path) -> None:
    """Raise NotOursError for a log of a stranger, which SQLite would play into the database.

    Or write through, where it is a link.
    """
    wal, _, journal = sidecars(live.resolve())
    for log in (wal, journal):
        # a reader may leave an empty one
        if os.path.lexists(log) and os.lstat(log).st_size:
            from automigrator.support.owned_files import Owners  # local: often there is none

            owners = Owners.of(live)
            if owners.whose(log) == "foreign":
                raise owners.refusal(log, "foreign")


def sidecars(path: Path) -> list[Path]:
    """Name SQLite's files beside a database, which lie beside the end of a link."""
    return [beside(path, suffix) for suffix in SIDECARS]

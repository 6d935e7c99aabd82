"""The journal of a SQLite database: a file beside it, for the next start after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from automigrator.backends.contract import journal as contract
from automigrator.backends.sqlite.companions import journal_path, progress_path
from automigrator.backends.sqlite.files import write_durably
from automigrator.errors import RefusedError
from automigrator.frozen import Frozen
from automigrator.support import json_object
from automigrator.support.owned_files import NotOursError, Owners


class JournalError(RefusedError, ValueError):
    """Raised for a journal that this release cannot follow; nothing was touched."""


class Entry(contract.Entry):
    """A migration that the copy `snapshot` undoes; `at` is Unix time.

    `before` and `after` are the heads of `tables`. A migration is `atomic` where it is one
    transaction, which a kill undoes whole.
    """

    state: Literal["migrating", "restoring"]
    snapshot: str
    at: float
    tables: tuple[str, ...] = ("alembic_version",)
    atomic: bool = False


class Progress(Frozen):
    """How far the migration of the entry with this `snapshot` and `at` came.

    In a file of its own: earlier releases refuse a journal with keys that they do not know.
    `steps`: the revisions that it was to run. `inodes`: of the live file and of the copy, when the
    copy was made. `repairs`: those that were begun, and killed. `digest`: of the copy; "" where
    an earlier release made it.
    """

    snapshot: str
    at: float
    steps: tuple[str, ...] | None = None
    committed: bool = False
    inodes: tuple[int, int] | None = None
    repairs: contract.Repairs = contract.Repairs()
    digest: str = ""


def write(live: Path, entry: Entry | None) -> None:
    """Replace the journal durably: a kill or power cut leaves the old entry or the new one.

    None closes the journal.
    """
    text = json_object.dumped(entry) if entry is not None else None
    write_durably(journal_path(live), text, like=live)


def read(live: Path) -> Entry | None:
    """Return the open entry, None when there is none. Raises JournalError for any other file.

    One that a stranger has put there is none; see `copies.strangers`.
    """
    path = journal_path(live)
    try:
        # an unknown key refuses: the release that added it meant it to be followed
        data = json_object.parsed(Owners.of(live).read(path))
        return json_object.read(Entry, data, strict=True)
    except FileNotFoundError:
        return None
    except NotOursError as error:
        if error.whose == "foreign":
            return None
        raise JournalError(
            f"the journal {path} cannot be read, and a migration or restore was not finished: "
            f"{error}"
        ) from error
    except (OSError, ValueError) as error:
        raise JournalError(
            f"the journal {path} cannot be read: {error}. A migration or restore was not finished, "
            "and the journal is needed to finish it; the database was not touched. If another "
            "release of automigrator wrote it, start that one; otherwise restore the database by "
            "hand and delete the file"
        ) from error


def write_progress(live: Path, progress: Progress) -> None:
    """Replace the progress durably."""
    write_durably(progress_path(live), json_object.dumped(progress), like=live)


def progress_of(live: Path, entry: Entry) -> Progress | None:
    """Return the progress of an entry; None where it has none, or that cannot be read."""
    try:
        data = json_object.parsed(Owners.of(live).read(progress_path(live)))
        found = json_object.read(Progress, data)
    except (NotOursError, OSError, ValueError):
        return None
    return found if (found.snapshot, found.at) == (entry.snapshot, entry.at) else None


def forget_repairs(live: Path) -> None:
    """Count the repairs of the open entry anew."""
    entry = read(live)
    progress = progress_of(live, entry) if entry is not None else None
    if progress is not None and progress.repairs.count:
        write_progress(live, progress._replace(repairs=contract.Repairs()))


def clear(live: Path) -> None:
    """Delete the journal durably; nothing happens when there is none."""
    write(live, None)
    # of no entry any more
    Owners.of(live).remove(progress_path(live))

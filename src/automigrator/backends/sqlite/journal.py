"""The journal of a SQLite database: a file beside it, for the next start after a kill."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from automigrator.backends.contract import journal as contract
from automigrator.backends.sqlite.files import journal_path, write_durably
from automigrator.errors import RefusedError
from automigrator.support import json_object


class JournalError(RefusedError, ValueError):
    """Raised for a journal that this release cannot follow; nothing was touched."""


@dataclass(frozen=True, slots=True)
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


def write(live: Path, entry: Entry | None) -> None:
    """Replace the journal durably: a kill or power cut leaves the old entry or the new one.

    None closes the journal.
    """
    text = json.dumps(asdict(entry)) if entry is not None else None
    write_durably(journal_path(live), text, like=live)


def read(live: Path) -> Entry | None:
    """Return the open entry, None when there is none. Raises JournalError for any other file."""
    path = journal_path(live)
    try:
        # an unknown key refuses: the release that added it meant it to be followed
        return json_object.read(Entry, json.loads(path.read_bytes()), strict=True)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise JournalError(
            f"the journal {path} cannot be read: {error}. A migration or restore was not finished, "
            "and the journal is needed to finish it; the database was not touched. If another "
            "release of automigrator wrote it, start that one; otherwise restore the database by "
            "hand and delete the file"
        ) from error


def clear(live: Path) -> None:
    """Delete the journal durably; nothing happens when there is none."""
    write(live, None)

"""The note beside a SQLite file that lets the next start finish what a killed process began."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from automigrator.backends.sqlite.files import remove_durably, write_durably
from automigrator.errors import RefusedError

State = Literal["migrating", "restoring"]


class JournalError(RefusedError, ValueError):
    """Raised for a journal that says what this release cannot follow; nothing was touched."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is being done: `before` and `after` are the heads of `tables`, `at` is Unix time.

    `atomic` says that the migration is one transaction, which a kill undoes whole.
    """

    state: State
    snapshot: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    at: float
    tables: tuple[str, ...] = ("alembic_version",)
    atomic: bool = False


def path_for(live: Path) -> Path:
    """Where the journal of a database is; the same one whichever link leads to it."""
    live = live.resolve()
    return live.with_name(live.name + ".automigrator-journal.json")


def write(live: Path, entry: Entry) -> None:
    """Replace the journal durably: a kill or power cut leaves the old entry or the new one."""
    write_durably(path_for(live), json.dumps(asdict(entry)))


def read(live: Path) -> Entry | None:
    """The open entry, None when there is none. Raises JournalError for any other file."""
    path = path_for(live)
    try:
        return _entry(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise JournalError(
            f"the journal {path} cannot be read: {error}. A migration or restore was not finished "
            "and what it says is needed to finish it; the database was not touched. If another "
            "release of automigrator wrote it, start that one; else restore the database by hand "
            "and delete the file"
        ) from error


def clear(live: Path) -> None:
    """Forget the entry durably; nothing happens when there is none."""
    remove_durably(path_for(live))


def _entry(data: Any) -> Entry:
    if not isinstance(data, dict):
        raise ValueError("it is not a JSON object")
    # whoever added it meant it to be followed
    if unknown := sorted(set(data) - {field.name for field in fields(Entry)}):
        raise ValueError(f"this release does not know what it says of {', '.join(unknown)}")
    state = data.get("state")
    if state != "migrating" and state != "restoring":
        raise ValueError(f"state is {state!r}, not 'migrating' or 'restoring'")
    snapshot, at = data.get("snapshot"), data.get("at")
    if not isinstance(snapshot, str):
        raise ValueError(f"snapshot is {snapshot!r}, not a string")
    if isinstance(at, bool) or not isinstance(at, int | float) or not math.isfinite(at):
        raise ValueError(f"at is {at!r}, not seconds")
    tables = _strings(data, "tables") if "tables" in data else ("alembic_version",)
    before, after = _strings(data, "before"), _strings(data, "after")
    atomic = data.get("atomic", False)
    if not isinstance(atomic, bool):
        raise ValueError(f"atomic is {atomic!r}, not true or false")
    return Entry(state, snapshot, before, after, float(at), tables, atomic)


def _strings(data: dict[str, Any], name: str) -> tuple[str, ...]:
    found = data.get(name)
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ValueError(f"{name} is {found!r}, not a list of strings")
    return tuple(found)

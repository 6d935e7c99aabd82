"""The copies that automigrator keeps of a SQLite file: names, which may go, what they hold."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Container, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Literal, get_args

from automigrator.backends.sqlite import codes, files, reader
from automigrator.backends.sqlite.journal import Entry
from automigrator.errors import RefusedError
from automigrator.retention import Limits, is_future
from automigrator.support.owned_files import NotOursError, Owners

Kind = Literal["snapshot", "purged", "corrupt", "replaced", "side"]

OF_DATA: tuple[Kind, ...] = ("snapshot", "purged", "corrupt", "replaced")

"""The kinds that hold, or held, the database's rows; a side is only being made."""

_STAMP = "[0-9]{8}T[0-9]{6,12}Z(?:-[0-9]{1,6})?"

"""The stamp of a run, or of `backup.set_aside`. `snapshot-before-the-holidays` is not ours."""

_SAME = (slice(0, 18), slice(20, 24), slice(28, 40), slice(44, 92))

"""Bytes of the header that are equal in copies of the same rows. Those between them may differ:
journal mode, change counter, schema cookie, and the version of the library that wrote last."""


def snapshot_path(file: Path, stamp: str, folder: Path | None) -> Path:
    """Name a snapshot: beside the file, or in a folder that several databases may share."""
    return _home(file, folder) / f"{_prefix(file, folder)}.snapshot-{stamp}"


def kept(file: Path, *kinds: Kind, folder: Path | None = None) -> list[Path]:
    """Return the whole copies of these kinds, oldest first, but none of another database.

    Nor one that somebody made who could not have written to the database.
    """
    owners = Owners.of(file)
    found = _matching(file, f"\\.(?:{'|'.join(kinds)})-{_STAMP}", folder)
    return sorted(filter(owners.owns, found), key=stamp_of)


def named(file: Path, place: Path) -> str | None:
    """Return the kind of copy that a path names; None where our own naming never puts one there.

    That is beside the database, or in whichever folder snapshots were told to be in.
    """
    live = file.resolve()
    name = rf"\.({'|'.join(get_args(Kind))})-[0-9A-Za-z]{{1,28}}(?:-[0-9]{{1,6}})?"
    beside = re.fullmatch(re.escape(live.name) + name, place.name)
    if beside and place.parent.resolve() == live.parent:
        return beside[1]
    apart = re.fullmatch(re.escape(_prefix(live, place.parent)) + name, place.name)
    return apart[1] if apart else None


def strangers(file: Path, folder: Path | None = None) -> list[str]:
    """Say of each file of a name of ours why it does not count; most likely there is none."""
    owners = Owners.of(file)
    rest = rf"\.(?:{'|'.join(get_args(Kind))})-{_STAMP}[a-z.-]*|\.automigrator-[a-z.-]+"
    found = []
    for path in sorted(_matching(file, rest, folder)):
        with suppress(OSError):
            if owners.whose(path) in ("doubtful", "foreign"):
                found.append(owners.described(path))
            elif is_future(stamp_of(path)):
                found.append(f"{path} is of the future")
    return found


def remove_partials(file: Path, folder: Path | None = None) -> None:
    """Delete what killed processes left half written; only under the lock: it may be in use."""
    rest = f"\\.(?:{'|'.join(get_args(Kind))})-{_STAMP}(?:-wal|-shm|-journal)?\\.partial"
    rest += r"(?:-wal|-shm|-journal)?"
    rest += r"|\.automigrator-(?:journal|progress|record|works-with|checksums)\.json\.tmp"
    rest += r"|\.automigrator-new(?:\.partial)?(?:-wal|-shm|-journal)?"
    Owners.of(file).remove(*_matching(file, rest, folder))


def prune(
    file: Path,
    kinds: Iterable[Kind],
    limits: Limits,
    folder: Path | None = None,
    *,
    good: Path | None = None,
    spared: Container[Path] = (),
) -> tuple[str, ...]:
    """Delete the copies beyond the limits, but neither those `spared` nor a `good` one.

    Without a `good` one, the newest sound one stays; where none is sound, all of them stay. One
    whose stamp is in the future does not count.
    """
    owners = Owners.of(file)
    copies = [p for p in kept(file, *kinds, folder=folder) if not is_future(stamp_of(p))]
    by_stamp = {stamp_of(path): path for path in copies}
    old = [by_stamp[stamp] for stamp in limits.outdated(list(by_stamp), datetime.now(UTC))]
    if old and good is None:
        # one kept as damaged is not even opened: SQLite may delete the log beside it
        whole = [p for p in copies if not p.name.rpartition(".")[2].startswith("corrupt-")]
        good = next((p for p in reversed(whole) if _is_sound(p, owners)), None)
        if good is None:
            return ()  # any of them may be the one that can still be used
    old = [path for path in old if path != good and path not in spared]
    for path in old:
        files.remove(path, owners)
    for folder in {path.parent for path in old}:
        files.sync_folder(folder)
    return tuple(str(path) for path in old)


def drop_twin(new: Path, others: Iterable[Path], owners: Owners) -> None:
    """Delete the newest of the others if `new` is the same, page by page: one is enough.

    So starts that fail again and again, and change nothing, keep one copy.
    """
    before = max((path for path in others if path != new), key=stamp_of, default=None)
    if before is not None and _same_pages(new, before):
        files.remove(before, owners)
        files.sync_folder(before.parent)


def _same_pages(one: Path, other: Path) -> bool:
    """Tell whether two copies differ in SQLite's counters at most; nothing may have them open."""
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as a, other.open("rb") as b:
        headers = a.read(100), b.read(100)
        if any(headers[0][part] != headers[1][part] for part in _SAME):
            return False
        while chunk := a.read(1 << 20):
            if chunk != b.read(1 << 20):
                return False
    return True


def _is_sound(path: Path, owners: Owners) -> bool:
    with suppress(sqlite3.Error, OSError, RefusedError):
        files.digest(path, owners)
        reader.verify(path)
        return True
    return False


def _matching(file: Path, rest: str, folder: Path | None) -> list[Path]:
    # snapshots are beside a link that the application opens, what is set aside beside the file
    named = {file.absolute(), file.resolve()} if folder is None else {file}
    found = []
    for each in named:
        ours = re.compile(f"{re.escape(_prefix(each, folder))}(?:{rest})")
        home = _home(each, folder)
        found += [p for p in home.iterdir() if ours.fullmatch(p.name)] if home.is_dir() else []
    return found


def _home(file: Path, folder: Path | None) -> Path:
    return file.parent if folder is None else folder.absolute()


def _prefix(file: Path, folder: Path | None) -> str:
    if folder is None:
        return file.name
    # databases of one name may keep their copies in one folder
    whose = hashlib.blake2b(str(file.resolve()).encode(), digest_size=5).hexdigest()
    return f"{file.name}.{whose}"


def stamp_of(path: Path) -> str:
    """Return the stamp in a copy's name, and the number of one of several of the same second."""
    return path.name.rpartition(".")[2].partition("-")[2]


def flaw_of(place: Path, entry: Entry, owners: Owners, digest: str) -> str | None:
    """Say why a copy cannot be put back; None when it can. Raises what reading raises.

    `digest`: what it had when it was made; "" where nobody noted it.
    """
    try:
        found = files.digest(place, owners)
    except FileNotFoundError:
        return "it is gone"
    except NotOursError as error:
        return str(error)
    if digest and found != digest:
        return "it is not what was copied: somebody has written to it, or it is damaged"
    return unsound(place, entry)


def unsound(place: Path, entry: Entry) -> str | None:
    """Say why the contents of a copy are not those of its entry; None when they seem to be."""
    try:
        found = reader.verify(place, entry.tables)
    except sqlite3.DatabaseError as error:
        if not codes.is_damage(error):
            raise
        # of the copy, or of a page of the live file that nobody has read yet
        return f"it did not pass its check: {error}"
    if not set(found) <= set(entry.before) or (entry.before and not found):
        before = ", ".join(entry.before) or "base"
        return f"it is at {', '.join(found) or 'base'}, the database at {before}"
    return None


def unusable(place: Path, flaw: str) -> RefusedError:
    return RefusedError(f"the snapshot {place} cannot be used ({flaw}); nothing was changed")


def unchanged(file: Path, place: Path, *, rows: bool) -> bool:
    """Tell whether the file holds what its copy at `place` does.

    `rows`: whether rows count, because one that differs may be the migration's. Otherwise only the
    application can have changed it.
    """
    if not place.exists():
        return False
    with reader.looking_at(file) as live, reader.looking_at(place) as copy:
        same_schema = _schema(live) == _schema(copy)
        return same_schema and (not rows or _same_rows(live, copy))


def _schema(connection: sqlite3.Connection) -> list[tuple[str, ...]]:
    # without what ANALYZE makes: an application that optimises changes no schema
    return sorted(
        connection.execute(
            "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_master "
            "WHERE name NOT GLOB 'sqlite_stat*'"
        )
    )


def _same_rows(one: sqlite3.Connection, other: sqlite3.Connection) -> bool:
    """Compare all rows of two databases of the same schema; both are read through."""
    names = "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0 AND "
    for (name,) in one.execute(names + "name NOT GLOB 'sqlite_stat*'").fetchall():
        select = f"SELECT * FROM {reader.quoted(name)}"
        pairs = zip_longest(one.execute(select), other.execute(select))
        if not all(a == b for a, b in pairs):
            return False
    return True

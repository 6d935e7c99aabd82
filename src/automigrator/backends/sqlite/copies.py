"""The copies that automigrator keeps of a SQLite file: their names, and which of them may go."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Container, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from automigrator.backends.sqlite.files import remove, sync_folder
from automigrator.backends.sqlite.reader import verify
from automigrator.retention import Limits

Kind = Literal["snapshot", "purged", "corrupt", "replaced", "side"]

_STAMP = "[0-9]{8}T[0-9]{6,12}Z(?:-[0-9]{1,6})?"

"""As `run.stamp` and `copying.set_aside` make it: `snapshot-before-the-holidays` is a person's."""

_ANY = "snapshot|purged|corrupt|replaced|side"

_COUNTERS = ((18, 20), (24, 28), (40, 44), (92, 100))

"""Bytes of the header that another copy of the same rows may have otherwise: journal mode, change
counter, schema cookie, and the version of the library that wrote last."""


def snapshot_path(file: Path, stamp: str, folder: Path | None) -> Path:
    """Where a snapshot goes: beside the file, or to a folder that several may share."""
    return _home(file, folder) / f"{_prefix(file, folder)}.snapshot-{stamp}"


def kept(file: Path, *kinds: Kind, folder: Path | None = None) -> list[Path]:
    """The whole copies of these kinds, oldest first; a neighbour's are none of ours."""
    found = _matching(file, f"\\.(?:{'|'.join(kinds)})-{_STAMP}", folder)
    return sorted(found, key=_stamp_of)


def remove_partials(file: Path, folder: Path | None = None) -> None:
    """Delete what copies that were killed have left; only under the lock, or it may be in use."""
    rest = f"\\.(?:{_ANY})-{_STAMP}(?:-wal|-shm|-journal)?\\.partial(?:-wal|-shm|-journal)?"
    rest += r"|\.automigrator-(?:journal|record|works-with)\.json\.tmp"
    rest += r"|\.automigrator-new(?:\.partial)?(?:-wal|-shm|-journal)?"
    for left in _matching(file, rest, folder):
        left.unlink(missing_ok=True)


def prune(
    copies: Sequence[Path], limits: Limits, *, good: Path | None, spared: Container[Path] = ()
) -> tuple[str, ...]:
    """Delete the copies beyond the limits, but neither what is `spared` nor a `good` one.

    Where none is, the newest sound one stays, and all of them where none is sound.
    """
    by_stamp = {_stamp_of(path): path for path in copies}
    old = [by_stamp[stamp] for stamp in limits.outdated(list(by_stamp), datetime.now(UTC))]
    if not old:
        return ()
    if good is None:
        good = next(filter(_is_sound, reversed(copies)), None)
        if good is None:
            return ()  # nobody knows which of them may still serve
    old = [path for path in old if path != good and path not in spared]
    for path in old:
        remove(path)
    for folder in {path.parent for path in old}:
        sync_folder(folder)
    return tuple(str(path) for path in old)


def prune_set_aside(file: Path, limits: Limits, own: Container[Path]) -> tuple[str, ...]:
    """Delete those beyond the limits of the databases that a purge has replaced.

    This run's own stay: a clock may say that they are the oldest.
    """
    return prune(kept(file, "purged", "corrupt"), limits, good=None, spared=own)


def drop_twin(new: Path, others: Iterable[Path]) -> None:
    """Delete the newest of the others if `new` is the same, page by page: one of them is enough.

    So a start that fails again and again, and changes nothing, keeps one copy.
    """
    before = max((path for path in others if path != new), key=_stamp_of, default=None)
    if before is not None and same_pages(new, before):
        remove(before)
        sync_folder(before.parent)


def same_pages(one: Path, other: Path) -> bool:
    """Whether two copies differ in SQLite's own counters at most; nothing may have them open."""
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as a, other.open("rb") as b:
        if _without_counters(a.read(100)) != _without_counters(b.read(100)):
            return False
        while chunk := a.read(1 << 20):
            if chunk != b.read(1 << 20):
                return False
    return True


def _without_counters(header: bytes) -> bytes:
    plain = bytearray(header)
    for start, end in _COUNTERS:
        plain[start:end] = bytes(end - start)
    return bytes(plain)


def _is_sound(path: Path) -> bool:
    try:
        verify(path, preread=True)
    except (sqlite3.Error, OSError):
        return False
    return True


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


def _stamp_of(path: Path) -> str:
    return path.name.rpartition(".")[2].partition("-")[2]

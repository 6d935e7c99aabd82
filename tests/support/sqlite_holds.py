"""What the holder of a SQLite lock may do, for tests that need no lock to be held."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from automigrator.backends.sqlite.backend import SQLite
from automigrator.backends.sqlite.hold import SQLiteHold
from automigrator.backends.sqlite.lock import FileLock

_held: WeakKeyDictionary[SQLite, SQLiteHold] = WeakKeyDictionary()


def held(backend: SQLite) -> SQLiteHold:
    """The hold of a backend, the same at every call."""
    if backend not in _held:
        assert backend.file is not None
        lock = FileLock("the test", 0.0, 0.0, -1, backend.file)
        _held[backend] = SQLiteHold(lock, backend.look, backend.access, backend.file)
    return _held[backend]

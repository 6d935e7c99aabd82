"""What the holder of a SQLite lock may do, for tests that need no lock to be held."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from automigrator.backends.sqlite.backend import SQLite
from automigrator.backends.sqlite.hold import FileHold

_held: WeakKeyDictionary[SQLite, FileHold] = WeakKeyDictionary()


def held(backend: SQLite) -> FileHold:
    """The hold of a backend, the same at every call."""
    if backend not in _held:
        assert backend.file is not None
        _held[backend] = FileHold(backend.look, backend.access, backend.file)
    return _held[backend]

"""Which file stands under a name: it is told by its device and inode, never by the name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

Identity = tuple[int, int]


def identity_of(place: Path | int) -> Identity | None:
    """Return device and inode of a path, or of an open file; None where there is no such file."""
    try:
        status = os.stat(place)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


class Noted:
    """The file under a name, as it was when it was last noted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._noted: Identity | None = None
        self._replacing = 0

    def note(self) -> None:
        """Note the file that stands there now."""
        self._noted = identity_of(self.path)

    @contextmanager
    def replacing(self) -> Iterator[None]:
        """Context manager: this process may replace the file, and notes it anew at the end."""
        self._replacing += 1
        try:
            yield
        finally:
            self._replacing -= 1
            with suppress(OSError):
                self.note()

    def is_another(self) -> bool:
        """Tell whether another file stands there now, or none; False where it cannot be told."""
        if self._replacing:
            return False
        if self._noted is None:  # it was not there yet
            with suppress(OSError):
                self.note()
            return False
        with suppress(OSError):
            return identity_of(self.path) != self._noted
        return False


def links_of(path: Path) -> int:
    """Return how many names a file has; 1 where there is none."""
    with suppress(FileNotFoundError):
        return path.stat().st_nlink
    return 1

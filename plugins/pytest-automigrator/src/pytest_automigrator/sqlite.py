"""SQLite templates: files in the cache, which tests get copies of."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from sqlalchemy import URL

from pytest_automigrator import cache

_FICLONE = 0x40049409
"""Linux's ioctl that lets two files share their blocks."""

_SIDECARS = ("-wal", "-shm", "-journal")


class SQLite:
    """Templates and clones of SQLite; a template is a file that nobody has open.

    A template is made under its lock in a folder of its own, and then renamed: a killed maker
    leaves that folder, which the next one removes.
    """

    kind = "sqlite"

    def __init__(self) -> None:
        self._folder = cache.folder() / "sqlite"
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._swept = False
        self._numbers = itertools.count()

    def template(self, key: str, make: Callable[[URL], object]) -> Path:
        """The template of that key; `make` fills it where there is none."""
        path = self._folder / f"{key}.db"
        if not path.exists():
            with cache.locked(path.with_suffix(".lock")):
                if not path.exists():
                    self._make(path, make)
        with suppress(OSError):
            os.utime(path)  # it is in use
        if not self._swept:
            self._swept = True
            self.sweep(cache.UNUSED_DAYS)
        return path

    def _make(self, path: Path, make: Callable[[URL], object]) -> None:
        partial = path.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        file = partial / "app.db"
        try:
            make(URL.create("sqlite", database=str(file)))
            with closing(sqlite3.connect(file)) as connection:  # base is an empty file
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            os.replace(file, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def clone(self, template: Path, folder: Path) -> URL:
        """A copy of a template in a folder."""
        file = folder / f"migrated-{next(self._numbers)}.db"
        _copy(template, file)
        return URL.create("sqlite", database=str(file))

    def copy(self, url: URL, folder: Path) -> URL:
        """A copy of a database that nobody has open."""
        with closing(sqlite3.connect(str(url.database))) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return self.clone(Path(str(url.database)), folder)

    def drop(self, url: URL) -> None:
        """Remove a clone, and all that has its name before its own."""
        file = Path(str(url.database))
        for path in file.parent.glob(f"{file.name}*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def sweep(self, days: float) -> list[str]:
        """Remove what no session has used for so many days, and what killed makers left."""
        removed = []
        for lock in sorted(self._folder.glob("*.lock")):
            with suppress(cache.CacheError), cache.locked(lock, wait_s=0):
                shutil.rmtree(lock.with_suffix(".partial"), ignore_errors=True)
                template = lock.with_suffix(".db")
                with suppress(FileNotFoundError):
                    if time.time() - template.stat().st_mtime < days * 86400:
                        continue
                    template.unlink()
                    removed.append(str(template))
                lock.unlink()
        return removed

    def close(self) -> None:
        """Nothing: clones lie in folders of pytest's."""


def _copy(source: Path, target: Path) -> None:
    """Share the blocks where the file system can, else copy them."""
    with suppress(OSError), source.open("rb") as old, target.open("xb") as new:
        fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
        return
    shutil.copyfile(source, target)

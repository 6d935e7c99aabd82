"""A database of each kind, as it was at the beginning as often as wanted, and where it lies."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import page

sys.path.insert(0, str(page.ROOT / "tests"))

from support import postgres_server

IN_MEMORY = ("tmpfs", "ramfs")


class Databases:
    """One of SQLite in a folder, one on the tests' PostgreSQL server."""

    KINDS = ("SQLite", "PostgreSQL")

    def __init__(self, folder: Path, server: postgres_server.Server) -> None:
        self.folder = folder
        self._file, self._kept = folder / "bench.db", folder / "kept.db"
        self._name, self._kept_name = "am_bench_live", "am_bench_kept"
        self._server = server

    def url(self, kind: str) -> str:
        """The application's URL."""
        return (
            f"sqlite+aiosqlite:///{self._file}"
            if kind == "SQLite"
            else self._server.url(self._name)
        )

    def empty(self, kind: str) -> None:
        """Put an empty database in the place of what is there."""
        if kind == "SQLite":
            self._remove_files()
        else:
            self._server.drop(self._name)
            self._server.create(self._name)

    def keep(self, kind: str) -> None:
        """Keep what the database holds, for `put_back`."""
        if kind == "SQLite":
            self._file.touch()  # an empty file is an empty database
            shutil.copyfile(self._file, self._kept)
        else:
            self._server.drop(self._kept_name)
            self._copy(self._name, self._kept_name)

    def put_back(self, kind: str) -> None:
        """Have the database hold what was kept."""
        if kind == "SQLite":
            self._remove_files()
            shutil.copyfile(self._kept, self._file)
        else:
            self._server.drop(self._name)
            self._copy(self._kept_name, self._name)

    def _remove_files(self) -> None:
        for left in self.folder.glob(f"{self._file.name}*"):
            left.unlink()

    def _copy(self, source: str, name: str) -> None:
        self._server.execute(f"create database {name} template {source}")

    def circumstances(self, rounds: int) -> str:
        """What the figures depend on, in one line."""
        (version,) = self._server.execute("select current_setting('server_version')")
        where = file_system(self.folder)
        held = f"in memory ({where})" if where in IN_MEMORY else f"on a disk ({where})"
        python = f"Python {platform.python_version()}"
        return (
            f"{rounds} rounds, {os.cpu_count()} CPUs, {platform.system()}, {python}; "
            f"SQLite {sqlite3.sqlite_version}, its file {held}; "
            f"PostgreSQL {version[0].split()[0]} on the same machine, without `fsync`."
        )


@contextmanager
def databases(folder: str | None = None) -> Iterator[Databases]:
    """Context manager: the databases, SQLite's below `folder`, else where temporary files go."""
    with (
        tempfile.TemporaryDirectory(prefix="automigrator-bench-", dir=folder) as place,
        postgres_server.running() as server,
    ):
        found = Databases(Path(place), server)
        try:
            yield found
        finally:
            server.drop_all("am_bench_")


def file_system(folder: Path) -> str:
    """The kind that the folder is in; `unknown` where the system does not say."""
    try:
        lines = Path("/proc/mounts").read_text().splitlines()
    except FileNotFoundError:
        return "unknown"
    mounts = {Path(point): kind for _, point, kind, *_ in (line.split() for line in lines)}
    whole = folder.resolve()
    return next((mounts[place] for place in (whole, *whole.parents) if place in mounts), "unknown")

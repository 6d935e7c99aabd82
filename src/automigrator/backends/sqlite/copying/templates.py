"""Template files beside the databases of a folder: made aside, and copied byte by byte."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from pathlib import Path

from sqlalchemy import URL

from automigrator.backends.access import Access
from automigrator.backends.contract.templates import Templates
from automigrator.backends.sqlite import companions, files, reader
from automigrator.errors import RefusedError
from automigrator.support.concurrency import in_thread, shielded
from automigrator.support.owned_files import Owners

_PREFIX, _BUILDING = ".automigrator-template-", ".automigrator-building-"

_LEFT_S = 24 * 60 * 60.0
"""Seconds after which a template that is being built belongs to a process that was killed."""


class FileTemplates(Templates):
    """See `Templates`; they lie in the folder of the target's `file`."""

    def __init__(self, access: Access, file: Path) -> None:
        self._access, self._file = access, file
        self._folder = file.resolve().parent
        self._owners = Owners.of_folder(self._folder)

    def _place(self, plan: str) -> Path:
        return self._folder / f"{_PREFIX}{plan}"

    async def made(self, plan: str) -> bool:
        return await in_thread(partial(self._made, self._place(plan)))

    def _made(self, place: Path) -> bool:
        if not os.path.lexists(place):
            return False
        if not self._owners.owns(place):
            raise self._owners.refusal(place)
        return True

    @asynccontextmanager
    async def making(self, plan: str) -> AsyncIterator[URL]:
        place = self._place(plan)
        folder = await in_thread(self._building)
        try:
            new = folder / "new"
            yield self._access.url.set(database=str(new))
            await shielded(in_thread(partial(self._finish, new, place)))
        finally:
            await shielded(in_thread(partial(shutil.rmtree, folder, ignore_errors=True)))

    def _building(self) -> Path:
        for left in self._folder.glob(f"{_BUILDING}*"):
            with suppress(OSError):
                found = os.lstat(left)
                if found.st_uid == os.geteuid() and time.time() - found.st_mtime > _LEFT_S:
                    shutil.rmtree(left)
        return Path(tempfile.mkdtemp(prefix=_BUILDING, dir=self._folder))

    def _finish(self, new: Path, place: Path) -> None:
        with closing(reader.connect(new, "rw")) as connection:
            # what is in a log would not be in a copy of the file
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if any(files.size_of(each) for each in companions.sidecars(new)):
            raise RefusedError(f"{new} is still in use, and makes no template; nothing was made")
        with (
            files.new_file(place, f".{os.getpid()}", self._owners) as (_, descriptor),
            open(new, "rb") as old,
            open(descriptor, "wb", closefd=False) as copied,
        ):
            shutil.copyfileobj(old, copied, 1 << 20)

    async def copy(self, plan: str) -> bool:
        return await shielded(in_thread(partial(self._copy, self._place(plan))))

    def _copy(self, place: Path) -> bool:
        if not self._made(place):
            return False
        self._file.parent.mkdir(parents=True, exist_ok=True)
        partial_ = self._folder / f"{_BUILDING}{os.urandom(8).hex()}"
        owners = self._owners
        try:
            descriptor = owners.create(partial_)
            with open(descriptor, "wb") as new, open(owners.open(place), "rb") as template:
                shutil.copyfileobj(template, new, 1 << 20)
                new.flush()
                os.fsync(new.fileno())
            if files.digest(partial_, owners) != files.digest(place, owners):
                raise RefusedError(f"the copy of {place} differs from it; nothing was made")
            with closing(reader.connect(partial_, "ro")) as connection:
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if not files.create(self._file):
                raise RefusedError(
                    f"there is a file {self._file} already; it was not touched. An empty one may "
                    "be of a process that was killed here, and a run of the fleet migrates it"
                )
            os.chmod(partial_, self._file.stat().st_mode & 0o777)  # as the umask wants it
            os.replace(partial_, self._file)
            files.sync_folder(self._folder)
            return True
        except sqlite3.DatabaseError as error:
            raise RefusedError(f"the template {place} is no sound database: {error}") from error
        finally:
            files.remove(partial_, owners)

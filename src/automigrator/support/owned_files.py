"""Files that belong to a database, told from those of other users by owner and mode, not by name.

A name proves nothing in a folder that others may write to.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from automigrator.errors import RefusedError
from automigrator.frozen import Frozen
from automigrator.support.json_object import LIMIT

Whose = Literal["ours", "doubtful", "foreign"]

"""A `foreign` file was made by somebody who could not have written the database. One that is
`doubtful` may be ours: its maker could have, or that cannot be told, but it is no such file as we
make."""

NOT_THERE_FOR = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
"""What a file system answers that does not know an act at all, as many network shares."""

OTHER_KIND = frozenset({errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EISDIR, errno.ENODEV})
"""What opening answers for symbolic links, sockets, pipes and folders."""


class NotOursError(RefusedError):
    """Raised for a file that has a name of ours, and is not one that we may trust or replace."""

    def __init__(self, message: str, whose: Whose) -> None:
        super().__init__(message)
        self.whose: Whose = whose


class Owners(Frozen):
    """Who may write to a database: its owner, and whom its mode lets.

    Files beside it count if nobody else can have made or changed them.
    """

    uid: int
    gid: int
    mode: int

    @classmethod
    def of(cls, live: Path) -> Owners:
        """Of a database file; where it is absent, of those who may make it in its folder."""
        try:
            found = live.stat()
        except (FileNotFoundError, NotADirectoryError):
            return cls.of_folder(live.resolve().parent)
        # an owner who may only read could not write the copy of what he reads
        return cls(found.st_uid, found.st_gid, found.st_mode & 0o777 | 0o600)

    @classmethod
    def of_folder(cls, folder: Path) -> Owners:
        """Of files that a folder's owner and group share, and nobody else."""
        try:
            found = folder.stat()
        except (FileNotFoundError, NotADirectoryError):
            return cls(os.geteuid(), os.getegid(), 0o600)
        return cls(found.st_uid, found.st_gid, 0o660 if found.st_mode & 0o020 else 0o600)

    def keeps(self, folder: Path) -> bool:
        """Tell whether nobody may write to a folder who may not write to the database."""
        found = folder.stat()
        return bool(self.mode & 0o002) or (
            found.st_uid in self._trusted() and self._no_wider(found)
        )

    def opens(self, folder: Path) -> bool:
        """Tell whether a folder lets strangers write; the process's own group has none."""
        found = folder.stat()
        groups = found.st_gid not in (self.gid, os.getegid())
        return not self.keeps(folder) and bool(
            found.st_mode & 0o002
            or (found.st_mode & 0o020 and groups)
            or found.st_uid not in self._trusted()
        )

    def whose(self, path: Path) -> Whose | None:
        """Tell whose a file is, or a link itself; None where nothing has that name."""
        try:
            return self._judged(os.lstat(path), path.parent)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def owns(self, path: Path) -> bool:
        return self.whose(path) == "ours"

    def described(self, path: Path) -> str:
        """Say why a file is not ours."""
        found = os.lstat(path)
        kind = f"is {_kind(found)} and "
        if stat.S_ISREG(found.st_mode):
            kind = f"has {found.st_nlink} names (hard links) and " if found.st_nlink > 1 else ""
        group = f", group {self.gid}" if self.mode & 0o020 else ""
        return (
            f"{path} {kind}belongs to user {found.st_uid} and group {found.st_gid} with mode "
            f"{stat.S_IMODE(found.st_mode):o} (user {self.uid}{group} and root may write to the "
            "database)"
        )

    def open(self, path: Path, flags: int = os.O_RDONLY) -> int:
        """Open a file of ours; returns its descriptor.

        No link is followed, and no pipe is waited for. Raises NotOursError, and OSError.
        """
        try:
            descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            raise
        except OSError as error:
            whose = self.whose(path)
            if error.errno in OTHER_KIND or whose in ("doubtful", "foreign"):
                raise self.refusal(path) from error
            raise
        try:
            whose = self._judged(os.fstat(descriptor), path.parent)
            if whose != "ours":
                raise self.refusal(path, whose)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def read(self, path: Path) -> bytes:
        """Read a small file of ours. Raises NotOursError, OSError and ValueError."""
        with open(self.open(path), "rb") as file:
            data = file.read(LIMIT + 1)
        if len(data) > LIMIT:
            raise ValueError(f"it is longer than {LIMIT:,} bytes")
        return data

    def create(self, path: Path, mode: int | None = None) -> int:
        """Make a new file with the database's owner and mode, to be read and written.

        Raises NotOursError where the name is taken, by a link to nowhere too.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except FileExistsError as error:
            raise self.refusal(path) from error
        try:
            self.give(descriptor, mode)
        except BaseException:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        return descriptor

    def give(self, descriptor: int, mode: int | None = None) -> None:
        """Give an open file, or folder, to those who may read and write the database.

        Where the file system keeps neither owners nor modes, all files have those of the mount.
        """
        mode = self.mode if mode is None else mode
        for owner, group in ((-1, self.gid), (self.uid, -1)):
            with _where_known():
                os.fchown(descriptor, owner, group)
        if os.fstat(descriptor).st_gid != self.gid:
            mode &= ~0o070  # of a group that may not read the database
        with _where_known():
            os.fchmod(descriptor, mode)

    def make_folder(self, folder: Path) -> None:
        """Make a folder for copies, and those above it, where there is none."""
        if folder.is_dir():
            return
        self.make_folder(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir(0o700)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                self.give(descriptor, 0o770 if self.mode & 0o020 else 0o700)
            finally:
                os.close(descriptor)

    def remove(self, *paths: Path) -> None:
        """Remove those of these files that are ours; links are never followed."""
        for path in paths:
            if self._may_go(path):
                path.unlink(missing_ok=True)

    def ensure_free(self, path: Path) -> None:
        """Raise NotOursError where a name is taken by what we may not replace."""
        if os.path.lexists(path) and not self._may_go(path):
            raise self.refusal(path)

    def ensure_lockable(self, path: Path, descriptor: int | None = None) -> None:
        """Raise NotOursError for a lock's file that a stranger made, or that has other names.

        Too wide a mode is narrowed. `descriptor`: the file that is open; default: see its name.
        """
        found = os.lstat(path) if descriptor is None else os.fstat(descriptor)
        sole = stat.S_ISREG(found.st_mode) and found.st_nlink <= 1
        if not sole or self._may_write(found.st_uid, path.parent) is False:
            raise self.refusal(path)

    def _may_go(self, path: Path) -> bool:
        # what others may write to is not read, but it was made by us
        with suppress(FileNotFoundError, NotADirectoryError):
            found = os.lstat(path)
            trusted = stat.S_ISREG(found.st_mode) and found.st_uid in self._trusted()
            return trusted or self._judged(found, path.parent) == "ours"
        return False

    def refusal(self, path: Path, whose: Whose | None = None) -> NotOursError:
        """Return the error for a file that stands where one of ours would be."""
        whose = whose or self.whose(path) or "doubtful"
        why = self.described(path) if os.path.lexists(path) else f"{path} came and went"
        return NotOursError(
            f"{why}: it is not trusted, and was left as it is; nothing was changed. If it is the "
            "application's own, give it the database's owner, group and mode; otherwise delete "
            "it, and keep the database in a folder that only its users may write to",
            whose,
        )

    def _judged(self, found: os.stat_result, folder: Path) -> Whose:
        made = self._may_write(found.st_uid, folder)
        if made is False:
            return "foreign"
        sound = stat.S_ISREG(found.st_mode) and self._no_wider(found)
        return "ours" if made and sound else "doubtful"

    def _may_write(self, uid: int, folder: Path) -> bool | None:
        """Tell whether a user could have written to the database; None where it cannot be told."""
        if uid in self._trusted() or self.keeps(folder):
            return True
        if not self.mode & 0o020:
            return False
        try:
            user = pwd.getpwuid(uid)
        except KeyError:
            return None  # in a container, say
        return self.gid in os.getgrouplist(user.pw_name, user.pw_gid)

    def _no_wider(self, found: os.stat_result) -> bool:
        """Tell whether a file's mode lets nobody write to it who may not write to the database."""
        shared = self.mode & 0o020 and found.st_gid == self.gid
        return bool(self.mode & 0o002) or not (
            found.st_mode & 0o002 or (found.st_mode & 0o020 and not shared)
        )

    def _trusted(self) -> tuple[int, int, int]:
        return 0, self.uid, os.geteuid()


def _kind(found: os.stat_result) -> str:
    kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a pipe", stat.S_IFDIR: "a folder"}
    return kinds.get(stat.S_IFMT(found.st_mode), "a device or socket")


@contextmanager
def _where_known() -> Iterator[None]:
    """Context manager: pass over that a file system refuses an act, or does not know it."""
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_THERE_FOR | {errno.EPERM, errno.EACCES}:
            raise


def ensure_same(path: Path, made: os.stat_result) -> None:
    """Raise RefusedError where a name does not lead to the file that was made under it."""
    with suppress(FileNotFoundError):
        if os.path.samestat(os.lstat(path), made):
            return
    raise RefusedError(
        f"{path} was replaced by somebody while it was being written; it was not used, and the "
        "database was not changed. Keep the file in a folder that only its users may write to"
    )

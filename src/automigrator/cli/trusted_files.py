"""Files that the command reads by itself: only those that nobody else could have written."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from automigrator.errors import ConfigurationError
from automigrator.support.json_object import LIMIT
from automigrator.support.owned_files import Owners


def why_not(path: Path) -> str | None:
    """Why a file is not to be trusted, in words; None where it is.

    It has to belong to this user or root, and nobody else may write to it; of a link this goes
    for the link's owner and for the file that it leads to.
    """
    owners = _ours()
    link, file = os.lstat(path), path.resolve()
    if stat.S_ISLNK(link.st_mode) and link.st_uid not in (0, owners.uid):
        return f"it is a symbolic link of user {link.st_uid}"
    found = file.stat()
    if found.st_uid not in (0, owners.uid):
        return f"it belongs to user {found.st_uid}, and this is user {owners.uid}"
    if owners.whose(file) != "ours":
        return f"others may write to it (mode {stat.S_IMODE(found.st_mode):o})"
    return None


def _ours() -> Owners:
    """This user, with the group where that is the user's alone, as many systems have it."""
    uid, gid = os.geteuid(), os.getegid()
    private = False
    with suppress(KeyError):  # in a container, say
        user, group = pwd.getpwuid(uid).pw_name, grp.getgrgid(gid)
        private = group.gr_name == user and set(group.gr_mem) <= {user}
    return Owners(uid, gid, 0o660 if private else 0o600)


def ensure_trusted(path: Path) -> None:
    """Raise ConfigurationError for a file that was found, not named, and is not to be trusted."""
    if (why := why_not(path)) is not None:
        raise ConfigurationError(
            f"{path} is not used, as {why}; nothing was done. If it is right, name it with "
            "--config, or give it to this user with mode 0644"
        )


def read_secret(path: Path) -> str:
    """The one line of a file that holds a secret. Raises ConfigurationError.

    It has to be this user's with mode 0600, or root's with 0640, as PostgreSQL wants its keys.
    """
    try:
        found = path.stat()
        wider = stat.S_IMODE(found.st_mode) & (0o137 if found.st_uid == 0 else 0o177)
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in (0, os.geteuid()) or wider:
            raise ConfigurationError(
                f"{path} is not used: it belongs to user {found.st_uid} with mode "
                f"{stat.S_IMODE(found.st_mode):o}, and a file with a password has to belong to "
                f"this user with mode 600, or to root with 640 at most; nothing was done. "
                f"Next: chmod 600 {path}"
            )
        text = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}; nothing was done") from None
    if not text or "\n" in text:
        raise ConfigurationError(f"{path} should hold one line, the URL; nothing was done")
    return text


def tables(folder: Path, ignored: list[str]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Every `[tool.automigrator]` from a folder upward, nearest first; says what it ignores."""
    for path in (each / "pyproject.toml" for each in (folder, *folder.parents)):
        if not path.is_file():
            continue
        try:
            with path.open("rb") as file:
                text = file.read(LIMIT + 1)
            table = tomllib.loads(text.decode()).get("tool", {}).get("automigrator")
        except (OSError, ValueError) as error:
            why = why_not(path)
            if why is None and not isinstance(error, OSError):
                raise ConfigurationError(f"{path} cannot be read: {error}") from None
            continue
        if table is None:
            continue
        if (why := why_not(path)) is not None:
            ignored.append(f"{path} is ignored: {why}")
        else:
            yield path, table

"""PostgreSQL's own client programs: where they are, and which of them fit a server."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from automigrator.errors import RefusedError

PROGRAMS = ("pg_dump", "pg_restore", "psql")

_USUAL = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/*/bin")
_NEW_SETTING = 17
"""From this version on a restore begins with a setting that older servers do not know."""


@dataclass(frozen=True, slots=True)
class Clients:
    """`pg_dump`, `pg_restore` and `psql` of one major version, in one folder."""

    folder: Path
    version: int

    def program(self, name: str) -> str:
        return str(self.folder / name)


async def find(server: int, given: Path | None = None) -> Clients:
    """Those of the server's major version, else the next newer ones whose dumps it can read.

    `given` is the only folder looked in; else PATH and the usual places. Raises RefusedError.
    """
    folders = [given] if given is not None else _folders()
    found = [clients for folder in folders if (clients := await _in(folder)) is not None]
    fitting = [each for each in found if fits(each.version, server)]
    if fitting:
        return min(fitting, key=lambda each: each.version)
    had = ", ".join(f"version {each.version} in {each.folder}" for each in found) or "none"
    looked = str(given) if given is not None else "PATH and the usual places"
    raise RefusedError(
        f"a dump of a PostgreSQL {server} server takes pg_dump, pg_restore and psql of version "
        f"{server} (found in {looked}: {had}); nothing was changed. Install postgresql-client-"
        f"{server}, or name their folder with binaries="
    )


def fits(client: int, server: int) -> bool:
    """Whether a dump by these programs can be made of the server, and read by it."""
    return client >= server and not client >= _NEW_SETTING > server


def _folders() -> list[Path]:
    on_path = shutil.which("pg_dump")
    folders = [Path(on_path).parent] if on_path else []
    if on_path and Path(on_path).resolve().name == "pg_wrapper":
        folders = []  # Debian's choice depends on its local clusters; the real ones are below
    for pattern in _USUAL:
        folders += sorted(Path("/").glob(pattern.lstrip("/")))
    return list(dict.fromkeys(folders))


async def _in(folder: Path) -> Clients | None:
    if not _complete(folder):
        return None
    version = await _version(str(folder / "pg_dump"))
    return None if version is None else Clients(folder, version)


def _complete(folder: Path, names: Iterable[str] = PROGRAMS) -> bool:
    return all(shutil.which(folder / name) for name in names)


async def _version(program: str) -> int | None:
    try:
        child = await asyncio.create_subprocess_exec(
            program,
            "--version",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return None
    answer, _ = await child.communicate()
    match = re.search(rb"\) (\d+)", answer)
    return int(match[1]) if match and child.returncode == 0 else None

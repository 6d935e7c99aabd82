"""PostgreSQL's own client programs: where they are, and which of them fit a server."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
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


_SAID = 4000

"""Characters of a child's standard error that are kept."""

_VALUE = re.compile(r'((?:invalid input|out of range|value too long)[^:]*): .*|("[^"]{64})[^"]*"')


@asynccontextmanager
async def started(
    program: str,
    *arguments: str,
    env: Mapping[str, str],
    stdin: int = DEVNULL,
    stdout: int = DEVNULL,
) -> AsyncIterator[Process]:
    """A child with a standard error to read; killed when the block is left before it has ended."""
    try:
        child = await asyncio.create_subprocess_exec(
            program, *arguments, env=env, stdin=stdin, stdout=stdout, stderr=PIPE
        )
    except OSError as error:
        raise RefusedError(f"{program} cannot be started: {error}; nothing was changed") from error
    try:
        yield child
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        await child.wait()


async def run(program: str, *arguments: str, env: Mapping[str, str], stdout: int = DEVNULL) -> None:
    """Run a child that only reads a database to its end. Raises RefusedError with what it said."""
    async with started(program, *arguments, env=env, stdout=stdout) as child:
        said = await heard(child)
        if await child.wait() != 0:
            raise RefusedError(f"{program} failed: {said}; nothing was changed")


async def heard(child: Process) -> str:
    """What went wrong, in the child's own words: its first error, without values."""
    assert child.stderr is not None
    kept = b""
    while chunk := await child.stderr.read(1 << 16):
        kept = (kept + chunk)[:_SAID]
    lines = [line.strip() for line in kept.decode(errors="replace").splitlines() if line.strip()]
    wrong = [line for line in lines if re.search(r"\b(?:error|fatal|panic):", line, re.IGNORECASE)]
    first = (wrong or lines or ["it gave no reason"])[0]
    return _VALUE.sub(lambda m: f"{m[1]}: (value hidden)" if m[1] else f'{m[2]}…"', first)

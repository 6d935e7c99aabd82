"""PostgreSQL's own client programs: where they are, which of them fit a server, how they run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from automigrator.errors import RefusedError

PROGRAMS = ("pg_dump", "pg_restore", "psql")

_USUAL = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "opt/homebrew/opt/*/bin")

_NEW_SETTING = 17

"""From this version on a restore begins with a setting that older servers do not know."""

_KEPT = 4000

"""Bytes of a child's standard error that are kept."""

_LONGEST = 1 << 30

"""Bytes of an answer of psql that are read at once."""

_VALUE = re.compile(r'((?:invalid input|out of range|value too long)[^:]*): .*|("[^"]{64})[^"]*"')


async def find(server: int, given: Path | str | None = None) -> Path:
    """Find the folder of those of the server's major version, else of the next newer that fit it.

    `given` is the only folder looked in; by default PATH and the usual places are. Raises
    RefusedError.
    """
    folders = [Path(given)] if given is not None else _folders()
    found = [(version, folder) for folder in folders if (version := await _version_in(folder))]
    fitting = [(version, folder) for version, folder in found if fits(version, server)]
    if fitting:
        return min(fitting, key=lambda each: each[0])[1]
    had = ", ".join(f"version {version} in {folder}" for version, folder in found) or "none"
    looked = given or "PATH and the usual places"
    raise RefusedError(
        f"a dump of a PostgreSQL {server} server takes pg_dump, pg_restore and psql of version "
        f"{server} (found in {looked}: {had}); nothing was changed. Install postgresql-client-"
        f"{server}, or name their folder with binaries="
    )


def fits(client: int, server: int) -> bool:
    """Whether these programs can dump the server, and it can read what they write."""
    return client >= server and not client >= _NEW_SETTING > server


def _folders() -> list[Path]:
    on_path = shutil.which("pg_dump")
    # Debian's pg_wrapper chooses by its local clusters; the real programs are in the usual places
    real = on_path and Path(on_path).resolve().name != "pg_wrapper"
    folders = [Path(on_path).parent] if on_path and real else []
    usual = (folder for pattern in _USUAL for folder in sorted(Path("/").glob(pattern)))
    return list(dict.fromkeys([*folders, *usual]))


async def _version_in(folder: Path) -> int | None:
    """The major version of a folder's programs; None where they are not all there."""
    if not all(shutil.which(folder / name) for name in PROGRAMS):
        return None
    try:
        dump = folder / "pg_dump"
        async with started(dump, "--version", env=os.environ, stdout=PIPE) as child:
            answer, _ = await child.communicate()
    except RefusedError:
        return None
    match = re.search(rb"\) (\d+)", answer)
    return int(match[1]) if match and child.returncode == 0 else None


def pipe() -> tuple[IO[bytes], IO[bytes]]:
    """Make a pipe: the end to read from, and the end to write to, which is not buffered."""
    read, write = os.pipe()
    return open(read, "rb"), open(write, "wb", buffering=0)


@asynccontextmanager
async def started(
    program: Path,
    *arguments: str,
    env: Mapping[str, str],
    stdin: int | IO[bytes] = DEVNULL,
    stdout: int | IO[bytes] = DEVNULL,
    passed: Sequence[int] = (),
) -> AsyncIterator[Process]:
    """Context manager: run a child, and kill it when the block ends before the child has.

    A file given as `stdin` or `stdout` is closed here, so that the end of a pipe is the child's
    alone: only then does each side notice that the other has gone. Descriptors are left open, and
    those `passed` are the child's as well. Raises RefusedError.
    """
    try:
        child = await asyncio.create_subprocess_exec(
            program,
            *arguments,
            env=env,
            stdin=stdin,
            stdout=stdout,
            stderr=PIPE,
            limit=_LONGEST,
            pass_fds=passed,
        )
    except OSError as error:
        raise RefusedError(f"{program} cannot be started: {error}; nothing was changed") from error
    finally:
        for end in (stdin, stdout):
            if not isinstance(end, int):
                end.close()
    try:
        yield child
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        await child.wait()


async def run(
    program: Path,
    *arguments: str,
    env: Mapping[str, str],
    note: str = "; nothing was changed",
    passed: Sequence[int] = (),
    **ends: int | IO[bytes],
) -> None:
    """Run a child to its end; `ends` are as in `started`.

    Raises RefusedError with its own words and `note`.
    """
    async with started(program, *arguments, env=env, passed=passed, **ends) as child:
        words = await first_error(child)
        if await child.wait() != 0:
            raise RefusedError(f"{program} failed: {words}{note}")


async def first_error(child: Process) -> str:
    """Read all that a child says until it ends, and return its first error, without values."""
    assert child.stderr is not None
    kept = b""
    while chunk := await child.stderr.read(1 << 16):
        kept = (kept + chunk)[:_KEPT]
    lines = [line.strip() for line in kept.decode(errors="replace").splitlines() if line.strip()]
    wrong = [line for line in lines if re.search(r"\b(?:error|fatal|panic):", line, re.IGNORECASE)]
    first = (wrong or lines or ["it gave no reason"])[0]
    return _VALUE.sub(lambda m: f"{m[1]}: (value hidden)" if m[1] else f'{m[2]}…"', first)

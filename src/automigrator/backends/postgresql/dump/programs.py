"""PostgreSQL's own client programs: where they are, which of them fit a server, how they run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import stat
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from pathlib import Path
from typing import IO, NamedTuple

from automigrator.backends.postgresql.libpq import without_libpqs
from automigrator.errors import RefusedError
from automigrator.support.loggers import logger_of

logger = logger_of(__name__)

PROGRAMS = ("pg_dump", "pg_restore", "psql")

_USUAL = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "opt/homebrew/opt/*/bin")

_NEW_SETTING = 17

"""From this version on a restore begins with a setting that older servers do not know."""


class _Hole(NamedTuple):
    cve: str
    what: str
    closed: Mapping[int, int]
    """By major version, the minor that closes it; older ones stay open."""


_HOLES = (
    _Hole(
        "CVE-2025-8715",
        "the name of an object may hold commands that psql runs on this machine",
        {13: 22, 14: 19, 15: 14, 16: 10, 17: 6},
    ),
    _Hole(
        "CVE-2026-18408 (before: CVE-2025-8714)",
        "a superuser of the server may run commands on this machine",
        {14: 24, 15: 19, 16: 15, 17: 11, 18: 6},
    ),
    _Hole(
        "CVE-2026-116314",
        "an archive that somebody changed may run code on this machine",
        {14: 25, 15: 20, 16: 16, 17: 12, 18: 7},
    ),
)
"""Where they run what the database or the archive says; https://www.postgresql.org/support/security

What they are told by a server that the application trusts, and by its superusers, is left out.
"""

_KEPT = 4000

"""Bytes of a child's standard error that are kept."""

_LONGEST = 1 << 30

"""Bytes of an answer of psql that are read at once."""

_VALUE = re.compile(r'((?:invalid input|out of range|value too long)[^:]*): .*|("[^"]{64})[^"]*"')


async def find(
    server: int, given: Path | str | None = None, least: int = 0, demands: Sequence[str] = ()
) -> Path:
    """Find the folder of those of the server's major version, else of the next newer that fit it.

    `given` is the only folder looked in; by default PATH and the usual places are. Older ones than
    `least` do not know what `demands` name. None is taken that others may replace. Raises
    RefusedError.
    """
    if given is not None and not Path(given).is_absolute():
        raise RefusedError(
            f"binaries={str(given)!r} is another folder wherever a process is started; nothing was "
            "changed. Name an absolute path"
        )
    found, had = [], []
    for folder in [Path(given)] if given is not None else _folders():
        if why := _why_not_ours(folder, anybodys=given is not None):
            had.append(why)
        elif version := await _version_in(folder):
            found.append((version, folder))
            had.append("version {}.{} in {}".format(*version, folder))
    fitting = [
        ((major, -minor), folder)
        for (major, minor), folder in found
        if fits(major, server) and major >= least
    ]
    if fitting:
        (major, minor), folder = min(fitting)
        _warn_of(major, -minor, folder)
        return folder.resolve()
    looked = given or "PATH and the usual places"
    wanted = max(server, least)
    because = f", as older ones do not know {', '.join(demands)}," if least > server else ""
    raise RefusedError(
        f"a dump of a PostgreSQL {server} server takes pg_dump, pg_restore and psql of version "
        f"{wanted}{because} (found in {looked}: {', '.join(had) or 'none'}); nothing was changed. "
        f"Install postgresql-client-{wanted}, or name their folder with binaries="
    )


def fits(client: int, server: int) -> bool:
    """Whether these programs can dump the server, and it can read what they write."""
    return client >= server and not client >= _NEW_SETTING > server


def _folders() -> list[Path]:
    on_path = [Path(each) for each in os.environ.get("PATH", os.defpath).split(os.pathsep)]
    # where a relative one is depends on where the process was started
    on_path = [each for each in on_path if each.is_absolute() and (each / "pg_dump").exists()]
    # Debian's pg_wrapper chooses by its local clusters; the real programs are in the usual places
    real = [each for each in on_path if (each / "pg_dump").resolve().name != "pg_wrapper"]
    usual = (folder for pattern in _USUAL for folder in sorted(Path("/").glob(pattern)))
    return list(dict.fromkeys([*real, *usual]))


def _why_not_ours(folder: Path, *, anybodys: bool) -> str:
    """Say who else may replace the programs of a folder; an empty text where nobody may.

    With `anybodys` they may be another user's: the application names the folder itself.
    """
    for name in PROGRAMS:
        try:
            # whoever may replace a link on the way says what is run
            steps = [*_links(folder / name), (folder / name).resolve(strict=True)]
            for each in dict.fromkeys(chain(steps, *(step.parents for step in steps))):
                found = each.lstat()
                mode = 0 if stat.S_ISLNK(found.st_mode) else found.st_mode  # a link has none
                sticky = stat.S_ISDIR(mode) and mode & stat.S_ISVTX
                if mode & stat.S_IWOTH and not sticky:
                    return f"one that everybody may replace, by writing to {each}"
                if not anybodys and found.st_uid not in (0, os.geteuid()):
                    return f"one of another user, to whom {each} belongs"
        except OSError:
            return ""  # there is none
    return ""


def _links(path: Path) -> Iterator[Path]:
    """Yield the links that lead from a path to its file, each in its real folder."""
    path = path.parent.resolve() / path.name
    while path.is_symlink():
        yield path
        path = path.parent / path.readlink()
        path = path.parent.resolve() / path.name


async def _version_in(folder: Path) -> tuple[int, int] | None:
    """The version of a folder's programs; None where they are not all there."""
    if not all(shutil.which(folder / name) for name in PROGRAMS):
        return None
    try:
        dump = folder / "pg_dump"
        env = without_libpqs(os.environ)
        async with started(dump, "--version", env=env, stdout=PIPE) as child:
            answer, _ = await child.communicate()
    except RefusedError:
        return None
    match = re.search(rb"\) (\d+)(?:\.(\d+))?", answer)
    return (int(match[1]), int(match[2] or 0)) if match and child.returncode == 0 else None


def _warn_of(major: int, minor: int, folder: Path) -> None:
    """Name what is known to be unsafe in these programs."""
    holes = [
        f"{each.cve}: {each.what}"
        for each in _HOLES
        if minor < each.closed.get(major, 0) or major < min(each.closed)
    ]
    if holes:
        logger.warning(
            "pg_dump, pg_restore and psql %s.%s in %s are known to be unsafe: %s; update them",
            *(major, minor, folder, "; ".join(holes)),
        )


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

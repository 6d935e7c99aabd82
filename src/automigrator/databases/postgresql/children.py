"""Child processes that work on a database: awaited, ended when cancelled, quoted when they fail."""

from __future__ import annotations

import asyncio
import contextlib
import re
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from automigrator.errors import RefusedError

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

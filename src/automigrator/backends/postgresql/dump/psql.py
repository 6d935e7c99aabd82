"""One transaction in a psql of our own, into which pg_restore writes as well."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import uuid
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from automigrator.backends.postgresql.dump import files
from automigrator.backends.postgresql.dump.programs import first_error, pipe, run, started
from automigrator.backends.postgresql.sql import NO_LIMITS
from automigrator.errors import RefusedError
from automigrator.frozen import Frozen
from automigrator.support.concurrency import background, in_thread

# 0: a name may hold the end of a line
_OPTIONS = ("-XqAt0", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=terse", "-f", "-")

_ENDING_S = 2.0

Choice = Callable[[str], bool]

"""Whether pg_restore is to put a line of its listing back."""


class Psql(Frozen):
    """A transaction that is rolled back unless `ask("COMMIT;")` returned.

    Every method raises RefusedError with the server's own words when a statement fails.
    """

    child: Process
    end: int
    """The end of a pipe that psql reads from."""
    clients: Path
    """The folder of the programs."""
    env: Mapping[str, str]
    error: Awaitable[str]
    """The first error that psql has told, when it has ended."""

    async def ask(self, sql: str) -> list[str]:
        """Run statements, and return the rows of their answers."""
        mark = uuid.uuid4().hex
        await self._write(f"{sql}\n\\echo {mark}\n")
        assert self.child.stdout is not None
        end = f"{mark}\n".encode()
        try:
            answer = await self.child.stdout.readuntil(end)
        except asyncio.IncompleteReadError:
            raise await self._stopped() from None
        return answer.removesuffix(end).decode().split("\0")[:-1]

    async def restore(self, archive: files.Archive, chosen: Choice, *options: str) -> None:
        """Let pg_restore write the chosen lines of a dump's listing into the transaction."""
        program = self.clients / "pg_restore"

        def choose(file: IO[bytes]) -> None:
            file.seek(0)
            lines = file.read().decode(errors="surrogateescape").splitlines(keepends=True)
            text = "".join(line for line in lines if chosen(line))
            file.seek(0)
            file.truncate()
            file.write(text.encode(errors="surrogateescape"))
            file.seek(0)

        # without a name, beside the dump: a listing may be large
        with tempfile.TemporaryFile(dir=archive.path.parent) as listing:
            source = archive.begun()
            await run(program, "-l", env=self.env, stdin=source, stdout=listing.fileno())
            await in_thread(lambda: choose(listing))
            await self._pour(archive, listing.fileno(), *options)

    async def _pour(self, archive: files.Archive, listing: int, *options: str) -> None:
        await self._write("\\o /dev/null\n")
        program = self.clients / "pg_restore"
        arguments = ("-f", "-", *options, "-L", f"/dev/fd/{listing}")
        source = archive.begun()
        try:
            await run(
                program,
                *arguments,
                env=self.env,
                note="",
                passed=(listing,),
                stdin=source,
                stdout=self.end,
            )
        except RefusedError:
            # psql stops at an error, which closes the pipe under pg_restore; else psql may be in
            # the middle of rows, and can be told nothing more
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.child.wait(), _ENDING_S)
                raise await self._stopped() from None
            raise
        await self.ask("\\o\n\\encoding UTF8")  # the archive has set the database's own

    async def _stopped(self) -> RefusedError:
        return RefusedError(f"psql stopped: {await self.error}")

    async def _write(self, text: str) -> None:
        def write() -> None:
            rest = memoryview(text.encode())
            while rest:
                rest = rest[os.write(self.end, rest) :]

        try:
            await in_thread(write)
        except BrokenPipeError:
            raise await self._stopped() from None


@asynccontextmanager
async def transaction(clients: Path, env: Mapping[str, str]) -> AsyncIterator[Psql]:
    """Context manager: a transaction that ends without a commit when the block does."""
    env = {**env, "PGCLIENTENCODING": "UTF8"}  # questions and answers have any name in them
    source, sink = pipe()
    with source, sink:
        async with (
            started(clients / "psql", *_OPTIONS, env=env, stdin=source, stdout=PIPE) as child,
            background(first_error(child)) as error,
        ):
            psql = Psql(child, sink.fileno(), clients, env, error)
            await psql.ask("BEGIN READ WRITE; SET LOCAL search_path = pg_catalog;")
            await psql.ask(f"{NO_LIMITS};")
            yield psql

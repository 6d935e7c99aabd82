"""One transaction in a psql of our own, into which pg_restore writes as well."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from automigrator.backends.postgresql.dump.programs import Clients, heard, started
from automigrator.backends.postgresql.sql import NO_LIMITS
from automigrator.errors import RefusedError
from automigrator.support.concurrency import in_thread

# -0: a name may hold the end of a line
_OPTIONS = ("-X", "-q", "-A", "-t", "-0", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=terse")

_CHUNK = 1 << 16

_BEGIN = f"""
BEGIN READ WRITE;
{NO_LIMITS};
"""

_ENDING_S = 2.0


class Psql:
    """A transaction that is rolled back unless `commit` was called and returned.

    Every method raises RefusedError with the server's own words when a statement fails.
    """

    def __init__(self, child: Process, end: int, clients: Clients, env: Mapping[str, str]) -> None:
        self._child = child
        self._end = end
        self._clients = clients
        self._env = env
        self._said = asyncio.create_task(heard(child))

    async def ask(self, sql: str) -> list[str]:
        """Run statements, and return the rows of what they answer."""
        mark = uuid.uuid4().hex
        await self._write(f"{sql}\n\\echo {mark}\n")
        assert self._child.stdout is not None
        answer, end = b"", f"{mark}\n".encode()
        while not answer.endswith(end):
            chunk = await self._child.stdout.read(_CHUNK)
            if not chunk:
                raise RefusedError(f"psql stopped: {await self._said}")
            answer += chunk
        return answer.removesuffix(end).decode().split("\0")[:-1]

    async def restore(self, *arguments: str) -> None:
        """Let pg_restore write into the transaction."""
        await self._write("\\o /dev/null\n")
        program = self._clients.program("pg_restore")
        async with started(
            program, "-f", "-", *arguments, env=self._env, stdout=self._end
        ) as child:
            said = await heard(child)
            failed = await child.wait() != 0
        if failed:
            # what psql could not run is what closed the pipe under pg_restore; else psql may be
            # in the middle of rows, and can be told nothing more
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._child.wait(), _ENDING_S)
                raise RefusedError(f"psql stopped: {await self._said}")
            raise RefusedError(f"{program} failed: {said}")
        await self.ask("\\o\n\\encoding UTF8")  # the archive has set the database's own

    async def commit(self) -> None:
        await self.ask("COMMIT;")

    async def _write(self, text: str) -> None:
        data = text.encode()

        def write() -> None:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._end, rest) :]

        try:
            await in_thread(write)
        except BrokenPipeError:
            raise RefusedError(f"psql stopped: {await self._said}") from None

    async def close(self) -> None:
        self._said.cancel()
        await asyncio.wait({self._said})


@asynccontextmanager
async def transaction(clients: Clients, env: Mapping[str, str]) -> AsyncIterator[Psql]:
    """Begin a transaction; leaving the block, or dying in it, ends it without a commit."""
    env = {**env, "PGCLIENTENCODING": "UTF8"}  # what is asked and answered has any name in it
    theirs, ours = os.pipe()
    try:
        async with AsyncExitStack() as stack:
            try:
                child = await stack.enter_async_context(
                    started(
                        *(clients.program("psql"), *_OPTIONS, "-f", "-"),
                        env=env,
                        stdin=theirs,
                        stdout=PIPE,
                    )
                )
            finally:
                os.close(theirs)  # or pg_restore would never learn that psql is gone
            psql = Psql(child, ours, clients, env)
            stack.push_async_callback(psql.close)
            await psql.ask(_BEGIN)
            yield psql
    finally:
        os.close(ours)

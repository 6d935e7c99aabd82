"""What pg_dump writes of one database is read by pg_restore into another, without a file."""

from __future__ import annotations

import asyncio
import os
from asyncio.subprocess import Process
from contextlib import AsyncExitStack

from automigrator.backends.postgresql.digests import SCHEMA_OF_OURS
from automigrator.backends.postgresql.dump.programs import Clients, heard, started
from automigrator.backends.postgresql.exclusive import Scene
from automigrator.errors import RefusedError

LOCK_S = 10

"""Seconds that pg_dump waits for a table that somebody has locked against readers."""


async def copy(scene: Scene, clients: Clients, name: str) -> None:
    """Fill the empty database `name` with what the target holds, as of one moment.

    Whoever reads or writes rows is not disturbed. Raises RefusedError with the program's words.
    """
    env = await scene.environment()
    read, write = os.pipe()
    async with AsyncExitStack() as stack:
        try:
            dump = await stack.enter_async_context(
                started(
                    clients.program("pg_dump"),
                    *("-Fc", "-Z0", "--no-password", "--no-subscriptions", "-N", SCHEMA_OF_OURS),
                    f"--lock-wait-timeout={LOCK_S}s",
                    env=env,
                    stdout=write,
                )
            )
            restore = await stack.enter_async_context(
                started(
                    clients.program("pg_restore"),
                    *("--exit-on-error", "--no-password", "-d", _conninfo(name)),
                    env=env,
                    stdin=read,
                )
            )
        finally:
            # or neither would learn that the other is gone
            os.close(read)
            os.close(write)
        ends = [
            asyncio.create_task(_ended(*each)) for each in ((dump, "dump"), (restore, "restore"))
        ]
        try:
            for end in asyncio.as_completed(ends):
                said = await end
                if said is not None:  # the first of them is why the other fails
                    raise RefusedError(f"{said}; nothing was changed")
        finally:
            for task in ends:
                task.cancel()
            await asyncio.wait(ends)


async def _ended(child: Process, act: str) -> str | None:
    """Why it failed; None when all went well."""
    said = await heard(child)
    return f"pg_{act} failed: {said}" if await child.wait() != 0 else None


def _conninfo(name: str) -> str:
    # a name with an = in it would be taken for one
    escaped = name.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{escaped}'"

"""A copy of one database in another: pg_restore reads what pg_dump writes, without a file."""

from __future__ import annotations

import asyncio
from pathlib import Path

from automigrator.backends.postgresql.dump import programs
from automigrator.backends.postgresql.dump.programs import run
from automigrator.backends.postgresql.exclusive import ExclusiveAccess
from automigrator.backends.postgresql.names import SCHEMA_OF_OURS

LOCK_S = 10

"""Seconds that pg_dump waits for a table that somebody has locked against readers."""

_DUMP = (
    *("-Fc", "-Z0", "--no-password", "--no-subscriptions", "-N", SCHEMA_OF_OURS),
    f"--lock-wait-timeout={LOCK_S}s",
)

_RESTORE = ("--exit-on-error", "--no-password", "-d")


async def copy(access: ExclusiveAccess, clients: Path, name: str) -> None:
    """Fill the empty database `name` with the target's data, as of one moment.

    `clients` is the programs' folder. Sessions that read or write rows are not disturbed. Raises
    RefusedError with a program's words.
    """
    env = await access.environment()
    source, sink = programs.pipe()
    with source, sink:
        dump = run(clients / "pg_dump", *_DUMP, env=env, stdout=sink)
        restore = run(clients / "pg_restore", *_RESTORE, _conninfo(name), env=env, stdin=source)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(dump)
                both.create_task(restore)
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None  # the first of them is why the other fails


def _conninfo(name: str) -> str:
    # a name with an = in it would be taken for one
    escaped = name.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{escaped}'"

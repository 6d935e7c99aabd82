"""The SQLSTATE of a refused connection where psycopg, which has it from libpq, keeps it back.

libpq gives the server's words alone, in the server's language: asyncpg is asked to knock as well.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types

from automigrator.databases.access import Access
from automigrator.databases.chain import chain
from automigrator.databases.postgresql.codes import PSYCOPG, own_code

_TIMEOUT_S = 5.0
_SAME = ("host", "port", "user", "password")


async def with_code(error: Exception, access: Access, database: str) -> None:
    """Put what asyncpg is answered behind `error`, where that has no code of its own."""
    errors = list(chain(error))
    if any(own_code(each) is not None for each in errors):
        return
    if not any(type(each).__module__.split(".")[0] in PSYCOPG for each in errors):
        return
    arguments = await access.arguments()
    if arguments is None:
        return
    given: dict[str, Any] = {key: arguments[key] for key in _SAME if arguments.get(key)}
    if "sslmode" in arguments:
        given["ssl"] = arguments["sslmode"]
    try:
        connection = await asyncpg.connect(**given, database=database, timeout=_TIMEOUT_S)
    except asyncpg.PostgresError as answer:
        error.__cause__ = answer
    except (OSError, TimeoutError, ValueError, asyncpg.InterfaceError):
        return  # it does not get as far as an answer, either
    else:
        with suppress(OSError, TimeoutError, asyncpg.InterfaceError):
            await connection.close(timeout=_TIMEOUT_S)

"""Clones of a database's files: the server lets copies share blocks where its file system can."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.postgresql.errors import NO_PRIVILEGE, own_code
from automigrator.backends.postgresql.sql import rows_of, server_version

_FROM = (18,)
"""The first version that has the setting."""

_INTERNAL_ERROR = "XX000"

_METHOD = """
    select set_config(name, :method, false) from pg_settings
    where name = 'file_copy_method' and source = :source and setting <> :method
      and :method = any(enumvals)
"""


async def prefer(admin: AsyncConnection) -> None:
    """Have a session clone files, unless somebody has set how the server copies them.

    A kernel that can make no clone on a file system copies by itself.
    """
    if server_version(admin) >= _FROM:
        await rows_of(admin, _METHOD, method="clone", source="default")


async def give_up(admin: AsyncConnection, error: DBAPIError) -> bool:
    """Have a session of ours copy files after an error that is a kernel's without the call.

    Returns whether it had cloned them until now: then what failed may be tried again.
    """
    # a sandbox refuses the call as if it were a missing right
    if own_code(error.orig) not in (_INTERNAL_ERROR, NO_PRIVILEGE):
        return False
    if server_version(admin) < _FROM:
        return False
    return bool(await rows_of(admin, _METHOD, method="copy", source="session"))

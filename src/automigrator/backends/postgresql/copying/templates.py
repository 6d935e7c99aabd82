"""Template databases of a server: made aside, closed, and copied by `CREATE DATABASE`."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.contract.templates import Templates
from automigrator.backends.postgresql import databases
from automigrator.backends.postgresql.errors import own_code
from automigrator.backends.postgresql.maintenance import Maintenance
from automigrator.backends.postgresql.names import OURS, copies_of_missing, ensure_ours
from automigrator.backends.postgresql.sql import quoted_name, rows_of, run
from automigrator.errors import RefusedError
from automigrator.support.concurrency import shielded

_PREFIX, _BUILDING = "fleet__automigrator_template_", "fleet__automigrator_building_"

_LEFT_S = 24 * 60 * 60.0
"""Seconds after which a template that is being built belongs to a process that was killed."""

_DUPLICATE = ("42P04", "23505")


class ServerTemplates(Templates):
    """See `Templates`; `maintenance` leads to the server of the target's database."""

    def __init__(self, maintenance: Maintenance) -> None:
        self._maintenance = maintenance

    async def made(self, plan: str) -> bool:
        async with self._maintenance.connection() as admin:
            return await self._is_there(admin, await _name(admin, plan))

    async def _is_there(self, admin: AsyncConnection, name: str) -> bool:
        await ensure_ours(admin, self._maintenance.name.own, name)
        query = "select datallowconn from pg_database where datname = :name"
        rows = await rows_of(admin, query, name=name)
        if rows and rows[0][0]:
            raise RefusedError(
                f"the template database {name!r} may be connected to: somebody has opened it, and "
                "it may not be what it was. Nothing was made of it; drop it, and the next one is "
                "made anew"
            )
        return bool(rows)

    @asynccontextmanager
    async def making(self, plan: str) -> AsyncIterator[URL]:
        stamp = datetime.now(UTC).strftime("%Y%m%dt%H%M%Sz")
        building = f"{_BUILDING}{stamp}_{os.urandom(4).hex()}"
        async with self._maintenance.connection(acting=True) as admin:
            await self._clear(admin)
            await databases.create(admin, building)
        try:
            yield self._maintenance.access.url.set(database=building)
            async with self._maintenance.connection(acting=True) as admin:
                await shielded(self._finish(admin, building, await _name(admin, plan)))
        except BaseException:
            await shielded(self._drop(building))
            raise

    async def _finish(self, admin: AsyncConnection, building: str, name: str) -> None:
        await run(admin, f"ALTER DATABASE {quoted_name(building)} ALLOW_CONNECTIONS false")
        await databases.ensure_left(admin, f"make a template of {building!r}", building)
        try:
            await databases.rename(admin, building, name)
        except DBAPIError as error:
            if own_code(error.orig) not in _DUPLICATE:
                raise
            await databases.drop(admin, building)  # another process was quicker

    async def _drop(self, building: str) -> None:
        with suppress(Exception):  # the block's error tells more; a later one clears it away
            async with self._maintenance.connection(acting=True) as admin:
                await databases.drop(admin, building)

    async def _clear(self, admin: AsyncConnection) -> None:
        """Drop what killed processes have left half built."""
        query = f"""select datname::text from pg_database
            where starts_with(datname, :prefix) and datdba in {OURS}"""
        live = self._maintenance.name.own
        for (name,) in await rows_of(admin, query, prefix=_BUILDING, live=live):
            match = re.match(r"(\d{8}t\d{6}z)_", name.removeprefix(_BUILDING))
            began = match and datetime.strptime(match[1] + "+0000", "%Y%m%dt%H%M%Sz%z").timestamp()
            if began and time.time() - began > _LEFT_S:
                with suppress(RefusedError):
                    await databases.drop(admin, name)

    async def copy(self, plan: str) -> bool:
        own = self._maintenance.name.own
        async with self._maintenance.connection(acting=True) as admin:
            name = await _name(admin, plan)
            if not await self._is_there(admin, name):
                return False
            if kept := await copies_of_missing(admin, own):
                raise RefusedError(
                    f"there is no database {own!r}, but {kept[-1][0]!r} may hold its data: a new "
                    "one was not made"
                )
            if not await shielded(databases.create(admin, own, template=name)):
                raise RefusedError(f"there is a database {own!r} already; it was not touched")
            return True


async def _name(admin: AsyncConnection, plan: str) -> str:
    """A template's name: roles that may not act for each other have each their own."""
    ((role,),) = await rows_of(admin, "select current_user::text")
    return _PREFIX + hashlib.blake2b(f"{plan}\0{role}".encode(), digest_size=12).hexdigest()

"""A close look at a PostgreSQL target: who migrates it, its copies, what is left in it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.contract import declarations
from automigrator.backends.contract.declarations import Declaration
from automigrator.backends.contract.examiner import Copy, Damage, Debris, TableName
from automigrator.backends.contract.record import Record, newest
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql import notes
from automigrator.backends.postgresql.errors import code_of
from automigrator.backends.postgresql.locking import advisory
from automigrator.backends.postgresql.maintenance import Maintenance
from automigrator.backends.postgresql.names import ours
from automigrator.backends.postgresql.sql import (
    FIRST_OF_PLACE,
    PATH,
    application_path,
    quoted_name,
    rows_of,
    run,
)
from automigrator.retention import at_of
from automigrator.support.redaction import first_line

_INVALID = """
    select n.nspname::text, c.relname::text,
           quote_ident(n.nspname) || '.' || quote_ident(c.relname),
           exists (select from pg_constraint o where o.conindid = i.indexrelid)
               or exists (select from pg_inherits h where h.inhrelid = i.indexrelid)
               or i.indisreplident,
           -- who builds it holds this on its table from beginning to end, whoever asks
           exists (select from pg_locks l
                   where l.locktype = 'relation' and l.relation = i.indrelid
                     and l.database = (select oid from pg_database
                                       where datname = current_database())
                     and l.mode in ('ShareUpdateExclusiveLock', 'AccessExclusiveLock')
                     and l.pid <> pg_backend_pid()),
           n.nspname = any(cast(:schemas as text[])),
           exists (select from pg_stat_progress_create_index p where p.index_relid = i.indexrelid)
    from pg_index i join pg_class c on c.oid = i.indexrelid
    join pg_namespace n on n.oid = c.relnamespace
    where not i.indisvalid and c.relkind = 'i' and n.nspname !~ '^pg_'
    order by 1, 2
"""


class ServerExaminer:
    """See `Examiner`; `tables` are the target's version tables."""

    def __init__(self, maintenance: Maintenance, tables: Sequence[VersionTable]) -> None:
        self.access, self._tables = maintenance.access, tables
        self._maintenance = maintenance
        self._schemas = [table.schema for table in tables if table.schema]

    async def unfinished(self) -> bool:
        return False  # the journal is in the server's catalog, and a look has told

    async def _keys(self) -> tuple[int, ...]:
        """The lock's key, and that of older releases where it is another one."""
        await self._maintenance.name.asked()
        return tuple(advisory.keys(each, self._tables)[0] for each in self._maintenance.name.all)

    async def declared(self) -> tuple[Declaration, ...]:
        texts = [await notes.read_note(self.access, "works_with", k) for k in await self._keys()]
        found = [declarations.loaded(text) for text in texts if text is not None]
        # one that an older release has not written, or not read, counts for nothing
        return tuple(d for d in found[0] if all(d in each for each in found)) if found else ()

    async def record(self) -> Record | None:
        texts = [await notes.read_note(self.access, "last", k) for k in await self._keys()]
        return newest(texts)

    async def holder(self) -> str | None:
        keys = await self._keys()
        async with self.access.shared() as connection:
            found = [await advisory.holder(connection, key) for key in keys]
        return next(filter(None, found), None)

    async def copies(self) -> tuple[Copy, ...]:
        async with self._maintenance.connection() as admin:
            found = await ours(admin, await self._maintenance.name.asked())
            rows = await rows_of(
                admin,
                "select datname::text, pg_database_size(oid) from pg_database "
                "where datname = any(cast(:names as text[]))",
                names=[each.name for each in found],
            )
        sizes: dict[str, int] = {row[0]: row[1] for row in rows}
        return tuple(
            Copy(each.name, each.kind, at_of(each.stamp), sizes.get(each.name, 0)) for each in found
        )

    async def damage(self) -> Damage:
        return Damage()  # no client can check that

    async def existing(self, tables: Sequence[TableName]) -> tuple[TableName, ...]:
        async with self.access.shared() as connection:
            rows = await rows_of(
                connection,
                f"""
                with {PATH}
                select a.number
                from ours cross join unnest(cast(:schemas as text[]), cast(:names as text[]))
                     with ordinality as a(schema, name, number)
                join pg_class c on c.oid = {FIRST_OF_PLACE}
                where c.relkind in ('r', 'p') order by 1
                """,
                schemas=[schema for schema, _ in tables],
                names=[name for _, name in tables],
            )
        return tuple(tables[row[0] - 1] for row in rows)

    async def debris(self) -> tuple[Debris, ...]:
        return tuple(await self._invalid())

    async def remove(self, debris: Debris) -> str | None:
        async with self.access.connection(autocommit=True, acting=True) as connection:
            return await self._done(connection, "DROP INDEX CONCURRENTLY", debris)

    async def rebuild(self, debris: Debris) -> str | None:
        async with self.access.connection(autocommit=True, acting=True) as connection:
            why_not = await self._done(connection, "REINDEX INDEX CONCURRENTLY", debris)
            schema, name = debris.object
            for each in await self._invalid() if why_not else ():
                # a rebuild that fails leaves its own half beside the index
                if each.object[0] == schema and re.fullmatch(
                    f"{re.escape(name)}_ccnew\\d*", each.object[1]
                ):
                    await self._done(connection, "DROP INDEX CONCURRENTLY", each)
            return why_not

    async def _done(self, connection: AsyncConnection, act: str, debris: Debris) -> str | None:
        schema, name = debris.object
        assert schema is not None
        # looked at as late as can be: it may have been built again since
        invalid = {each.object: each for each in await self._invalid()}
        if (judged := invalid.get(debris.object)) is None:
            return "it is no longer there, or no longer invalid"
        if not judged.provable:
            return judged.why
        await run(connection, "SET lock_timeout = '500ms'")
        try:
            await run(connection, f"{act} {quoted_name(schema)}.{quoted_name(name)}")
        except DBAPIError as error:
            return f"the server refused ({code_of(error)}): {first_line(error)}"
        return None

    async def _invalid(self) -> list[Debris]:
        async with self.access.shared() as connection:
            first = (await application_path(connection)).first
            own = [*self._schemas, *([first] if first is not None else ())]
            rows = await rows_of(connection, _INVALID, schemas=own)
        return [_judged(*each) for *each, _ in rows]


async def failed_builds(connection: AsyncConnection) -> tuple[str, ...]:
    """Name each index that a failed CREATE INDEX CONCURRENTLY left."""
    rows = await rows_of(connection, _INVALID, schemas=[])
    return tuple(
        f"index {said} is invalid: its concurrent build failed"
        for _, _, said, *_, under_way in rows
        if not under_way
    )


def _judged(schema: str, name: str, said: str, needed: bool, locked: bool, own: bool) -> Debris:
    if needed:
        why = "it belongs to a constraint, a partitioned index or a replica identity"
        why += f"; REINDEX INDEX {said}"
    elif locked:
        why = "somebody works on its table right now, and may be building it"
    elif not own:
        why = "it is in a schema that is not the target's"
    else:
        why = "its concurrent build failed, and no session continues it"
    provable = bool(own and not needed and not locked)
    return Debris(f"index {said} is invalid", (schema, name), provable, why, rebuilds=True)

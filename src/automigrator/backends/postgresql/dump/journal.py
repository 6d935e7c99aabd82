"""What is being done with a dump, as a comment in the target's database that the next start reads.

A dump is a file, which the next start may not see; a comment on a type in a schema of ours it
sees wherever it runs, and one transaction holds the restore and what is said of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql.digests import SCHEMA_OF_OURS
from automigrator.backends.postgresql.journal import KEY, OPEN, State
from automigrator.backends.postgresql.sql import literal, rows_of, run

IS_OPEN = f"""
    exists (select from pg_description s
            join pg_type t on t.oid = s.objoid join pg_namespace n on n.oid = t.typnamespace
            where s.classoid = 'pg_type'::regclass and n.nspname = '{SCHEMA_OF_OURS}'
              and s.description like any(cast(:open as text[])))
"""

"""Whether a dump's record is open; `:open` is `records.OPEN`."""

__all__ = ["IS_OPEN", "OPEN", "DumpRecord", "forget", "prepare", "read", "said", "write"]


@dataclass(frozen=True, slots=True)
class DumpRecord:
    """`path` on `host` holds the target's data at `before`; `after` is where it was to go.

    `size` and `digest` are the file's. `catalog` tells whether DDL was committed since, `shape`
    and `rows` whether a restore is complete. `values` tells whether rows have changed, and is empty
    where the migration is one transaction, which a kill undoes whole. `extensions` have name,
    schema and version.
    """

    state: State
    before: tuple[str, ...]
    after: tuple[str, ...]
    tables: tuple[VersionTable, ...]
    path: str
    host: str
    server: int
    disconnect_others: bool = False
    binaries: str | None = None
    size: int = 0
    digest: str = ""
    catalog: str = ""
    shape: str = ""
    rows: str = ""
    values: str = ""
    extensions: tuple[tuple[str, str, str], ...] = ()


def domain(key: int) -> str:
    """The type whose comment is the record of the target with this lock key."""
    return f"{SCHEMA_OF_OURS}.dump_{key % 2**64:016x}"


async def prepare(connection: AsyncConnection, key: int) -> None:
    """Make what carries the record. Raises what the server says to a role that may not."""
    await run(connection, f"CREATE SCHEMA IF NOT EXISTS {SCHEMA_OF_OURS}")
    await run(connection, f"DROP DOMAIN IF EXISTS {domain(key)}")
    await run(connection, f"CREATE DOMAIN {domain(key)} AS text")


def said(key: int, record: DumpRecord) -> str:
    """The statement that writes a record."""
    text = json.dumps({KEY: asdict(record)})
    return f"COMMENT ON DOMAIN {domain(key)} IS {literal(text)}"


async def write(connection: AsyncConnection, key: int, record: DumpRecord) -> None:
    await run(connection, said(key, record))


async def forget(connection: AsyncConnection, key: int) -> None:
    await run(connection, f"DROP DOMAIN IF EXISTS {domain(key)}")


async def read(connection: AsyncConnection, key: int) -> DumpRecord | None:
    """The open record of the target; a comment that is not ours is none."""
    rows = await rows_of(
        connection,
        "select obj_description(to_regtype(:name), 'pg_type')",
        name=domain(key),
    )
    try:
        record = _record(json.loads(rows[0][0] or "")[KEY])
    except (ValueError, KeyError, TypeError):
        return None
    return record if record.state != "kept" else None


def _record(data: Mapping[str, Any]) -> DumpRecord:
    known = {each.name for each in fields(DumpRecord)}
    values = {name: value for name, value in data.items() if name in known}
    for name in ("before", "after"):
        values[name] = tuple(values[name])
    values["tables"] = tuple(VersionTable(**table) for table in values["tables"])
    values["extensions"] = tuple(tuple(each) for each in values["extensions"])
    return DumpRecord(**values)

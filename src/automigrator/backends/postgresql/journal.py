"""What is being done with a snapshot, as a comment on it that the next start reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql.settings import set_comment
from automigrator.backends.postgresql.sql import rows_of

State = Literal["migrating", "restoring", "kept"]

KEY = "automigrator"

OPEN = tuple(f'{{"{KEY}": {{"state": "{state}"%' for state in ("migrating", "restoring"))

"""What the comment of an open record is LIKE."""


@dataclass(frozen=True, slots=True)
class Record:
    """`before` and `after` are heads of the target's `tables`; `kept` is over and done with.

    `atomic` says that the migration is one transaction, which a kill undoes whole; `key` is that
    of the target's lock, None in a record of before there were any.
    """

    state: State
    before: tuple[str, ...]
    after: tuple[str, ...]
    tables: tuple[VersionTable, ...]
    disconnect_others: bool = False
    atomic: bool = False
    key: int | None = None


async def write(admin: AsyncConnection, snapshot: str, record: Record) -> None:
    await set_comment(admin, snapshot, json.dumps({KEY: asdict(record)}))


async def read(admin: AsyncConnection, snapshots: Sequence[str]) -> dict[str, Record]:
    """The open records of these databases; a comment that is not ours is none."""
    rows = await rows_of(
        admin,
        """
        select datname::text, shobj_description(oid, 'pg_database')
        from pg_database where datname = any(cast(:names as text[]))
        """,
        names=list(snapshots),
    )
    found = {name: _record(comment) for name, comment in rows}
    return {name: each for name, each in found.items() if each and each.state != "kept"}


def _record(comment: str | None) -> Record | None:
    try:
        data = json.loads(comment or "")[KEY]
        return Record(
            data["state"],
            tuple(data["before"]),
            tuple(data["after"]),
            tuple(VersionTable(**table) for table in data["tables"]),
            data["disconnect_others"],
            data["atomic"],
            data.get("key"),
        )
    except (ValueError, KeyError, TypeError):
        return None

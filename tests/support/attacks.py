"""What a guest on the server plants beside an application's database, or in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import make_url
from support.alembic_projects import linear
from support.postgres_backends import TABLES
from support.postgres_server import Server

from automigrator import Migrator, Target
from automigrator.backends.contract.record import FailedStarts, Record
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql.journal import CopyEntry
from automigrator.backends.postgresql.locking.advisory import keys
from automigrator.backends.postgresql.names import Kind, name_beside
from automigrator.backends.postgresql.notes import note_name

STAMP = "20260101T000000000000Z"


@dataclass
class Scene:
    """An application whose role `app` owns its database `live`, at r1, and a `guest`."""

    server: Server
    roles: Any
    live: str
    app: str
    guest: str
    make_target: Callable[..., Target]

    @property
    def url(self) -> str:
        """By which the application connects."""
        return str(self.roles.url(self.app, self.live))

    @property
    def superusers_url(self) -> str:
        return self.server.url(self.live)

    def do(self, *statements: str) -> list[Any]:
        """What the test itself does in the database, as a superuser; returns the last rows."""
        rows: list[Any] = []
        for statement in statements:
            rows = self.server.execute(statement, database=self.live)
        return rows

    async def plant(self, *statements: str, database: str = "") -> None:
        """What the guest does."""
        await self.roles.does(self.guest, database or self.live, *statements)

    async def plant_note(self, kind: Any, text: str, role: str = "", group: str = "") -> str:
        """Let a role, by default the guest, keep a note in our schema; returns its name.

        `group` is the role that it does so for.
        """
        name = note_name(kind, keys(self.live, TABLES)[0])
        statements = (
            f"create schema automigrator authorization {group or role or self.guest}",
            f"set role {group or role or self.guest}",
            "grant usage on schema automigrator to public",  # so that nobody stumbles over it
            f"create domain {name} as text",
            f"comment on domain {name} is '{text}'",
        )
        await self.roles.does(role or self.guest, self.live, *statements)
        return name

    async def plant_database(self, kind: Kind, stamp: str = STAMP, comment: str = "") -> str:
        """Let the guest make a database of one of our names, with a table of its own."""
        name = name_beside(self.live, kind, stamp)
        await self.plant(f'create database "{name}"', database="postgres")
        if comment:
            await self.plant(f"comment on database \"{name}\" is '{comment}'", database="postgres")
        return name

    def databases(self) -> list[str]:
        """The kinds of what is beside the application's database."""
        names = self.server.databases(f"{self.live}__automigrator")
        return [name.split("_automigrator_")[1] for name in names]

    def migrator(self, url: Any = "", n: int = 1, folder: str = "", **options: Any) -> Migrator:
        """The application, whose newest revision is r<n>."""
        target = self.make_target(
            lambda versions: linear(versions, n), folder=folder, database=url or self.url
        )
        return Migrator(target, mode="migrate", **options)

    def owner_of(self, kind: Any) -> str | None:
        """The role that owns a note of the application; None where there is none."""
        name = note_name(kind, keys(self.live, TABLES)[0])
        query = "select pg_get_userbyid(typowner) from pg_type where oid = to_regtype($1)"
        rows = self.server.execute(query.replace("$1", f"'{name}'"), database=self.live)
        return rows[0][0] if rows else None


def dump_journal(folder: Path, **more: Any) -> str:
    """The text of an open journal for a dump that is in a folder."""
    dump = folder / f"x__automigrator_snapshot_01234567_{STAMP}.dump"
    dump.write_bytes(b"PGDMP")
    entry = {
        "state": "migrating",
        "before": [],
        "after": ["nowhere"],
        "tables": [{"name": "alembic_version", "schema": None}],
        "path": str(dump),
        "host": "h",
        "server": 15,
        "size": 5,
        "digest": hashlib.blake2b(b"PGDMP", digest_size=32).hexdigest(),
        **more,
    }
    return json.dumps({"automigrator": entry})


def copy_journal(before: tuple[str, ...] = (), after: tuple[str, ...] = ("nowhere",)) -> str:
    """The text of an open journal of a template copy."""
    return CopyEntry("migrating", before, after, tables=(VersionTable(),)).dumped()


def failed_starts(count: int, plan: str = "p", now: float = 0.0) -> str:
    """The text of a record of so many starts that failed."""
    starts = FailedStarts(count, now, now)
    return Record(plan, "failed", "somebody", (), "clean", starts, now).dumped()


def database_of(url: str) -> str:
    return make_url(url).database or ""

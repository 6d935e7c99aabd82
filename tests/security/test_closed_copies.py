"""Who may not connect to the database never gets into a copy of it, however early."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
from automigrator_backup_restore import BackupRestore
from sqlalchemy import make_url
from support.notes_application import GOOD, Application
from support.postgres_server import Server

BESIDE = "select datname from pg_database where starts_with(datname, $1)"


async def test_a_guest_who_lurks_gets_into_no_copy_before_it_has_the_databases_grants(
    tmp_path: Path, postgres_url: str, postgres_server: Server, roles: Any
) -> None:
    application, guest = Application(tmp_path, postgres_url), roles.make()
    live = postgres_url.rpartition("/")[2]
    postgres_server.execute(f"revoke connect on database {live} from public")
    application.deploy(GOOD)
    refused: list[str] = []
    entered: list[str] = []

    async def connect(database: str) -> Any:
        url = make_url(roles.url(guest, database)).set(drivername="postgresql")
        return await asyncpg.connect(url.render_as_string(hide_password=False))

    async def lurk() -> None:
        outside = await connect("postgres")
        try:
            while True:
                for (name,) in await outside.fetch(BESIDE, f"{live}__automigrator_"):
                    try:
                        await (await connect(name)).close()
                        entered.append(name)
                    except asyncpg.PostgresError as error:
                        refused.append(str(error))
        finally:
            outside.terminate()

    lurking = asyncio.create_task(lurk())
    report = await application.start(BackupRestore(snapshot="always", copy="template"))
    lurking.cancel()
    with suppress(asyncio.CancelledError):
        await lurking
    assert report.outcome == "migrated"
    assert entered == [] and refused

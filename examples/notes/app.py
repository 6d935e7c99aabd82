"""A small application that owns its database: `python app.py FILE NOTE` stores a note in FILE."""

import asyncio
import sys
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from automigrator import Migrator, Target


async def main(file: str, note: str) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}")
    migrator = Migrator(
        Target(engine, Path(__file__).with_name("alembic.ini")),
        recovery=["backup-restore", "log-and-continue"],
    )
    print(await migrator.run())
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO notes (text) VALUES (:note)"), {"note": note})
        notes = (await connection.execute(text("SELECT text FROM notes ORDER BY id"))).scalars()
        print("the application serves:", ", ".join(notes))
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

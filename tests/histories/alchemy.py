"""A project as advanced-alchemy makes one: its env.py, its configuration, its revision files.

Run as a program, it does what advanced-alchemy's command line does:

    python alchemy.py upgrade URL FOLDER REVISION
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import sqlalchemy as sa

_BODIES = {
    "0001": (
        """
    op.create_table(
        "authors",
        sa.Column("id", sa.GUID(length=16), nullable=False),
        sa.Column("name", sa.String(length=50), nullable=False),
        sa.Column("settings", sa.JSON, nullable=True),
        sa.Column("created_at", sa.DateTimeUTC(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_authors")),
    )
    op.create_table(
        "books",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("author_id", sa.GUID(length=16), sa.ForeignKey("authors.id", ondelete="CASCADE")),
        sa.Column("title", sa.String(length=50), nullable=False),
    )
""",
        """
    import datetime
    import uuid

    authors = sa.table(
        "authors",
        sa.column("id", sa.GUID(length=16)),
        sa.column("name"),
        sa.column("settings", sa.JSON),
        sa.column("created_at", sa.DateTimeUTC(timezone=True)),
    )
    books = sa.table("books", sa.column("author_id", sa.GUID(length=16)), sa.column("title"))
    noon = datetime.datetime(2024, 1, 1, 12, tzinfo=datetime.timezone.utc)
    known = uuid.UUID(int=7)
    row = {"id": known, "name": "rosa", "settings": {"a": [1, None]}, "created_at": noon}
    op.bulk_insert(authors, [row])
    op.bulk_insert(books, [{"author_id": known, "title": each} for each in ("a", "b")])
""",
    ),
    "0002": (
        """
    with op.batch_alter_table("authors", schema=None) as batch_op:
        batch_op.add_column(sa.Column("active", sa.Boolean, server_default=sa.true()))
        batch_op.alter_column("name", type_=sa.String(length=80), nullable=True)
        batch_op.create_index(batch_op.f("ix_authors_name"), ["name"], unique=True)
""",
        """
    op.execute("UPDATE authors SET name = name || ' 50%'")
""",
    ),
    "0003": (
        """
    with op.batch_alter_table("books", schema=None) as batch_op:
        batch_op.drop_column("title")
""",
        """
    op.execute("DELETE FROM authors WHERE active IS NULL")
""",
    ),
}
"""What a developer writes into `schema_upgrades` and `data_upgrades` of each revision."""
_ASYNC_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}


def with_async_driver(url: str) -> str:
    parsed = sa.make_url(url)
    driver = _ASYNC_DRIVERS[parsed.get_backend_name()]
    return parsed.set(drivername=driver).render_as_string(hide_password=False)


def commands(url: str, folder: Path) -> Any:
    """AlembicCommands for a sync or an async URL, in a project that is made where it is missing."""
    from advanced_alchemy.alembic.commands import AlembicCommands
    from advanced_alchemy.config import (
        AlembicAsyncConfig,
        AlembicSyncConfig,
        SQLAlchemyAsyncConfig,
        SQLAlchemySyncConfig,
    )

    asynchronous = sa.make_url(url).get_dialect().is_async
    root = folder / ("alchemy_async" if asynchronous else "alchemy_sync")
    where = {
        "script_config": str(root / "alembic.ini"),
        "script_location": str(root / "migrations"),
    }
    found = AlembicCommands(
        SQLAlchemyAsyncConfig(connection_string=url, alembic_config=AlembicAsyncConfig(**where))
        if asynchronous
        else SQLAlchemySyncConfig(connection_string=url, alembic_config=AlembicSyncConfig(**where))
    )
    if not root.exists():
        root.mkdir(parents=True)
        found.init(directory=where["script_location"])
        for number, (schema, data) in _BODIES.items():
            script = found.revision(message=f"number {number}", rev_id=number)
            _fill(Path(script.path), schema, data)
    return found


def _fill(file: Path, schema: str, data: str) -> None:
    text = file.read_text("utf-8")
    for where, body in (
        ('    """schema upgrade migrations go here."""\n', schema),
        ('    """Add any optional data upgrade migrations here!"""\n', data),
    ):
        assert where in text, text
        text = text.replace(where, where + body)
    file.write_text(text, "utf-8")


if __name__ == "__main__":
    what, url, folder, revision = sys.argv[1:]
    getattr(commands(url, Path(folder)), what)(revision)

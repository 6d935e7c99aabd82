"""PostgreSQL backends for tests, of a target that has no history."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.postgres_server import Server

from automigrator.backends.access import Access
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql.backend import PostgreSQL
from automigrator.target import Target

Do = Callable[..., list[Any]]
"""Runs statements in the target's database; returns the last one's rows."""

TABLE = VersionTable()
TABLES = [TABLE]
VERSIONS = "create table {} (version_num varchar(32) primary key)"


def made(url: Any, maintenance: str | None = None) -> PostgreSQL:
    return PostgreSQL(Access(Target(url, Path(__file__).parent)), maintenance)


def silent(seconds: float, leader: str) -> None:
    """Nobody wants to know who is waited for."""


def stamped(server: Server, database: str, head: str) -> None:
    for statement in (
        "create table if not exists alembic_version (version_num varchar(32) primary key)",
        "delete from alembic_version",
        f"insert into alembic_version values ('{head}')",
    ):
        server.execute(statement, database=database)


def beside(server: Server, live: str) -> list[str]:
    """The kinds of databases of ours beside the target."""
    return [name.split("_")[-2] for name in server.databases(f"{live}__automigrator")]

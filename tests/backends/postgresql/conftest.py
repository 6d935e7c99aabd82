"""What the tests of the backends share."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from support.postgres_backends import Do, made, stamped
from support.postgres_server import Server

from automigrator.backends.postgresql.backend import PostgreSQL
from automigrator.backends.postgresql.dump import programs


@pytest.fixture
def tools(tmp_path: Path) -> Callable[..., Path]:
    """Client programs that do something of the test's own before they are what they are."""

    def made_of(version: int | None = None, **scripts: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name in programs.PROGRAMS:
            lines = ["#!/bin/sh"]
            if version is not None:
                lines.append(f'[ "$1" = --version ] && echo "x (PostgreSQL) {version}.1" && exit')
            lines += [scripts.get(name, ""), f'exec {shutil.which(name)} "$@"']
            (folder / name).write_text("\n".join(lines))
            (folder / name).chmod(0o755)
        return folder

    return made_of


@pytest.fixture
def postgres_url(postgres_server: Server) -> Iterator[str]:
    """The URL of a new database: these tests change more of one than can be put back."""
    name = f"am_{uuid.uuid4().hex[:12]}"
    postgres_server.create(name)
    yield postgres_server.url(name)
    postgres_server.drop_all(name)


@pytest.fixture
def live(postgres_url: str) -> str:
    """The name of an empty database."""
    return make_url(postgres_url).database or ""


@pytest.fixture
def do(postgres_server: Server, live: str) -> Do:
    def run(*statements: str) -> list[Any]:
        rows: list[Any] = []
        for statement in statements:
            rows = postgres_server.execute(statement, database=live)
        return rows

    return run


@pytest.fixture
def backend(postgres_url: str) -> PostgreSQL:
    return made(postgres_url)


@pytest.fixture
def role(postgres_server: Server, live: str) -> Iterator[str]:
    """A role that may log in and nothing else."""
    name = f"{live}_role"
    postgres_server.execute(f"create role {name} login")
    yield name
    postgres_server.drop_all(live)
    postgres_server.execute(f"drop role {name}")


@pytest.fixture
def filled(postgres_server: Server, live: str, do: Callable[..., Any]) -> str:
    """The target at r1 with one user."""
    stamped(postgres_server, live, "r1")
    do("create table users (id int)", "insert into users values (7)")
    return live

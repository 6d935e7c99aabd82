"""What the tests of the backends share."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from support.postgres_backends import Do
from support.postgres_server import Server

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

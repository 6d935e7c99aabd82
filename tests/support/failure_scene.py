"""An application with rows in its database, and what a situation needs to make it fail."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
from sqlalchemy import URL, make_url
from support import postgres_server
from support.canaries import PASSWORD, ROW
from support.notes_application import Application
from support.small_disk import small_disk

from automigrator import Target

DRIVES: dict[str, dict[str, Any]] = {
    "aiosqlite": {"kind": "async", "drive": "auto"},
    "asyncpg": {"kind": "async", "drive": "auto"},
    "psycopg": {"kind": "generic", "drive": "own"},
}


@dataclass
class Scene:
    """One situation's; `options` are for the Target, what `stack` holds is undone at the end."""

    root: Path
    driver: str
    server_of: Callable[[], postgres_server.Server]
    """A server of our own, whose roles and files are this test's."""
    stack: AsyncExitStack
    options: dict[str, Any] = field(default_factory=dict)
    plugins: list[object] = field(default_factory=list)
    url: str = ""
    notes: Application = field(init=False)

    def __post_init__(self) -> None:
        self.options.setdefault("drive", DRIVES[self.driver]["drive"])
        if not self.url:
            self.url = self.a_database()
        self.notes = self.application(self.url)

    def application(self, url: str) -> Application:
        folder = self.root / f"app{len(list(self.root.glob('app*'))) or ''}"
        made = Application(folder, url, kind=DRIVES[self.driver]["kind"])
        made.execute(
            "DELETE FROM notes WHERE id = 2",  # no two rows but the next are alike
            f"INSERT INTO notes VALUES (8, '{ROW}'), (9, '{ROW}')",
        )
        return made

    @property
    def on_postgres(self) -> bool:
        return self.driver != "aiosqlite"

    def a_database(self) -> str:
        if not self.on_postgres:
            (self.root / "data").mkdir(exist_ok=True)
            return f"sqlite+aiosqlite:///{self.root / 'data' / 'app.db'}"
        name = f"app_{uuid.uuid4().hex[:8]}"
        self.server.create(name)
        self.stack.callback(self.server.drop_all, name)
        url = make_url(self.server.url(name)).set(password=PASSWORD)
        return url.render_as_string(hide_password=False)

    @property
    def server(self) -> postgres_server.Server:
        return self.server_of()

    @property
    def name(self) -> str:
        """The database's."""
        return str(make_url(self.url).database)

    def execute(self, sql: str) -> list[Any]:
        """In the application's PostgreSQL database, as the superuser."""
        return self.server.execute(sql, database=self.name)

    def target(self, *upgrades: str, url: str | URL = "", **options: Any) -> Target:
        """With a revision for each of `upgrades` pending."""
        self.notes.deploy(*upgrades)
        return Target(url or self.url, self.notes.config, **{**self.options, **options})

    def role(self, *rights: str) -> URL:
        """The application's URL with a role that has these rights alone."""
        name = f"role_{uuid.uuid4().hex[:8]}"
        self.execute(f"create role {name} login password '{PASSWORD}'")
        for right in rights:
            self.execute(right.format(role=name))
        return make_url(self.url).set(username=name)

    async def session(self, database: str | None = None) -> Any:
        """Another session in the application's PostgreSQL database."""
        dsn = make_url(self.server.url(database or self.name)).set(drivername="postgresql")
        connection = await asyncpg.connect(dsn.render_as_string(hide_password=False))
        self.stack.push_async_callback(connection.close)
        return connection

    def file(self) -> Path:
        return Path(self.name)

    def disk(self, megabytes: int = 16) -> Path:
        return self.stack.enter_context(small_disk(megabytes))

    def move_to(self, disk: Path) -> None:
        """The application's database is on that disk from now on."""
        if not self.on_postgres:
            self.url = f"sqlite+aiosqlite:///{disk / 'app.db'}"
            self.notes = self.application(self.url)
            return
        folder = disk / "space"
        folder.mkdir(mode=0o700)
        if user := postgres_server.unprivileged():
            os.chown(folder, user["user"], user["group"])
        space = f"space_{uuid.uuid4().hex[:8]}"
        self.server.execute(f"create tablespace {space} location '{folder}'")
        self.stack.callback(self.server.execute, f"drop tablespace {space}")
        self.server.execute(f"alter database {self.name} set tablespace {space}")
        self.stack.callback(self.server.drop_all, self.name)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)

"""Tenants of one history, each with a twin that plain Alembic migrates."""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import make_url
from support import alembic_projects, plain_alembic

from automigrator import Migrator, Target
from automigrator.errors import MigrationError
from automigrator.fleet.replay.replay import Replay
from automigrator.report import TargetReport
from automigrator.testing.contents import execute

Revisions = Callable[[Path], object]


def history(*bodies: str, imports: Sequence[str] = ()) -> Revisions:
    """Revisions r1, r2, … with these bodies of `upgrade`."""

    def write(folder: Path) -> None:
        for number, body in enumerate(bodies, 1):
            down = f"r{number - 1}" if number > 1 else None
            more = imports[number - 1] if number <= len(imports) else ""
            alembic_projects.revision(folder, f"r{number}", down, upgrade=body, imports=more)

    return write


@dataclass
class Tenants:
    """`lent` lends the URL of an empty database of the kind `database`."""

    root: Path
    database: str
    lent: Callable[[], AbstractContextManager[str]]
    stack: ExitStack
    revisions: Revisions = alembic_projects.linear
    kind: str = "async"
    env: str = ""
    """The text of env.py, where it is not the kind's."""
    options: dict[str, Any] = field(default_factory=dict)
    replay: Replay = field(default_factory=Replay)
    number: int = 0

    def url(self) -> str:
        """The URL of a new empty database."""
        return self.stack.enter_context(self.lent())

    @property
    def config(self) -> Path:
        """The application's."""
        if not (self.root / "app").exists():
            url = "sqlite+aiosqlite:///elsewhere.db"
            alembic_projects.project(self.root / "app", self.kind, url, revisions=self.revisions)
            self._with_env(self.root / "app")
        return self.root / "app" / "alembic.ini"

    def _with_env(self, root: Path) -> None:
        if self.env:
            (root / "migrations" / "env.py").write_text(self.env, "utf-8")

    async def at(self, revision: str, *rows: str) -> str:
        """The URL of a new tenant at a revision, with more rows."""
        url = self.url()
        if revision != "base":
            await self.migrate(url, replay=None, revision=revision)
        if rows:
            await execute(make_url(url), *rows)
        return url

    def migrator(self, url: str, *, replay: bool | None = True, **options: Any) -> Migrator:
        """Of one tenant."""
        self.number += 1
        given = {k: options.pop(k) for k in ("plugins", "recovery") if k in options}
        target = Target(url, self.config, name=f"t{self.number}", **self.options, **options)
        made = Migrator(target, mode="migrate", **given)
        made.replay = self.replay if replay else None
        return made

    async def migrate(self, url: str, **options: Any) -> TargetReport:
        """The report of a run, also of one that failed."""
        try:
            return (await self.migrator(url, **options).run()).targets[0]
        except MigrationError as error:
            return error.report.targets[0]

    def plain(self, url: str, *options: str) -> None:
        """Have the application's own command line migrate."""
        self.number += 1
        place = self.root / f"twin{self.number}"
        made = alembic_projects.project(
            place, self.kind, url, revisions=self.revisions, other_url=url
        )
        self._with_env(place)
        plain_alembic.upgraded(made.config, *options, check=True)


def dump(url: str, *options: str) -> str:
    """All of a database as text, by its own means."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        lines = alembic_projects.query(url, "select type, name, tbl_name, sql from sqlite_master")
        return "\n".join(sorted(map(repr, map(tuple, lines)))) + repr(
            alembic_projects.contents(url)
        )
    dsn = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
    said = subprocess.run(
        ["pg_dump", "--inserts", "-N", "automigrator", *options, "-d", dsn],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    # the comment on `public` is there only where the database was never emptied
    return re.sub(
        r"^(\\(un)?restrict .*|--.*|COMMENT ON SCHEMA public .*|)\n", "", said, flags=re.MULTILINE
    )


def lending_files(folder: Path) -> Callable[[], AbstractContextManager[str]]:
    """What lends SQLite files."""
    numbers = itertools.count()
    return lambda: nullcontext(f"sqlite+aiosqlite:///{folder / f'{next(numbers)}.db'}")


SCHEMA_ENV = '''\
"""A schema for each tenant: `alembic -x tenant=NAME`."""

from alembic import context
from sqlalchemy import engine_from_config, pool, text

config = context.config
tenant = context.get_x_argument(as_dictionary=True)["tenant"]


def run_migrations_offline() -> None:
    context.configure(url=config.get_main_option("sqlalchemy.url"), version_table_schema=tenant)
    with context.begin_transaction():
        context.execute(f"set search_path to {tenant}")
        context.run_migrations()


def run_migrations_online() -> None:
    engine = engine_from_config(
        config.get_section(config.config_ini_section, {}),
        prefix="sqlalchemy.",
        poolclass=pool.NullPool,
    )
    with engine.connect() as connection:
        connection.execute(text(f"set search_path to {tenant}"))
        connection.commit()
        context.configure(connection=connection, version_table_schema=tenant)
        with context.begin_transaction():
            context.run_migrations()


if context.is_offline_mode():
    run_migrations_offline()
else:
    run_migrations_online()
'''


def of_schema(name: str) -> dict[str, Any]:
    """The options of a target that is a schema."""
    table = {"version_table": "alembic_version", "version_table_schema": name}
    return {"x": [f"tenant={name}"], **table}

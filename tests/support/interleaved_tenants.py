"""Tenants of one application, migrated beside each other: a SQLite file or a schema each."""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine
from support.alembic_projects import contents, project, query, revision, with_sync_driver
from support.checksums import checksums
from support.plain_alembic import upgraded

from automigrator import Migrator, Report, Target
from automigrator.migrations.runs.together import beside_others

SWITCH = """
import sys
from alembic import context
from sqlalchemy import text

turnstile = sys.modules.get("turnstile")


def switch(place: str) -> None:
    if turnstile is not None:
        turnstile.passes(tenant(), place)


def tenant() -> str:
    return context.get_x_argument(as_dictionary=True)["tenant"]
"""
"""The head of each module: between two steps another thread's turn comes, in tests alone."""

ENV = """
import asyncio
import os
{switch}
from sqlalchemy import engine_from_config, pool
from sqlalchemy.ext.asyncio import async_engine_from_config

config = context.config
options = dict(prefix="sqlalchemy.", poolclass=pool.NullPool)
{beginning}

def migrate(connection):
    schema = tenant() if connection.dialect.name == "postgresql" else None
    if schema is not None:
        connection.execute(text(f'set search_path to "{{schema}}"'))
        connection.commit()
    switch("env.py")
    context.configure(connection=connection, version_table_schema=schema)
    switch("configured")
    with context.begin_transaction():
        switch("begun")
        context.run_migrations()


{online}
switch("end")
"""

ONLINE = {
    "sync": """
with engine_from_config(config.get_section(config.config_ini_section), **options).connect() as c:
    migrate(c)
""",
    "async": """
async def online():
    engine = async_engine_from_config(config.get_section(config.config_ini_section), **options)
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


asyncio.run(online())
""",
}
ONLINE["given"] = f"""
given = config.attributes.get("connection")
if given is not None:
    migrate(given)
else:
    {ONLINE["sync"].strip().replace(chr(10), chr(10) + "    ")}
"""
"""Ways to come to the database; `given` takes the connection that it is offered."""

R1 = """
switch("r1")
op.create_table(
    "users",
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", sa.String(50), nullable=False),
    sa.UniqueConstraint("name", name=op.f("uq_users_name")),
)
switch("created")
op.execute(sa.text("insert into users values (1, :name)").bindparams(name=tenant()))
switch("filled")
op.create_table("notes", sa.Column("text", sa.Text))
"""

R2 = """
with op.batch_alter_table("users") as batch:
    switch("batch")
    batch.add_column(sa.Column("email", sa.String(200)))
    switch("added")
switch("altered")
op.get_bind().execute(text("update users set email = name"))
switch("updated")
op.bulk_insert(sa.table("notes", sa.column("text")), [{"text": context.config.cmd_opts.x[0]}])
if tenant() == "broken":
    raise RuntimeError("this tenant's data is odd")
switch("r2")
"""

R3 = """
async def noted(connection):
    switch("awaited")
    await connection.execute(text("insert into notes values ('awaited')"))

if op.get_bind().dialect.is_async:
    op.run_async(noted)
else:
    op.execute("insert into notes values ('awaited')")
switch("r3")
op.create_index(op.f("ix_users_email"), "users", ["email"])
"""


class Turnstile(ModuleType):
    """Lets the threads that pass it alternate, and knows which tenants were under way at once."""

    def __init__(self) -> None:
        super().__init__("turnstile")
        self.under_way: set[str] = set()
        self.together: set[frozenset[str]] = set()
        self.wait_s = 0.005
        self.held: dict[tuple[str, str], threading.Event] = {}
        """Places where a tenant stays until the event is set."""
        self.reached: set[tuple[str, str]] = set()
        self.meet: frozenset[str] = frozenset()
        """Those who wait for each other, the first time that they have come to the same place."""
        self._last = ""
        self._passed = threading.Condition(threading.RLock())

    def passes(self, tenant: str, place: str) -> None:
        with self._passed:
            self.reached.add((tenant, place))
            if place == "end":
                self.left(tenant)
                return
            self.under_way.add(tenant)
            self.together |= {frozenset(pair) for pair in itertools.combinations(self.under_way, 2)}
            self._last = tenant
            self._passed.notify_all()
            if tenant in self.meet and place == "begun":
                self._passed.wait_for(
                    lambda: self.reached >= {(each, place) for each in self.meet}, 20
                )
            if len(self.under_way) > 1:
                self._passed.wait_for(lambda: self._last != tenant, self.wait_s)
        if (held := self.held.get((tenant, place))) is not None:
            held.wait(20)

    def left(self, tenant: str) -> None:
        with self._passed:
            self.under_way.discard(tenant)
            self._passed.notify_all()

    async def until(self, tenant: str, place: str) -> None:
        async with asyncio.timeout(20):
            while (tenant, place) not in self.reached:  # noqa: ASYNC110 - a thread reaches it
                await asyncio.sleep(0.005)


@contextmanager
def turnstile() -> Iterator[Turnstile]:
    made = Turnstile()
    sys.modules["turnstile"] = made
    try:
        yield made
    finally:
        del sys.modules["turnstile"]


@dataclass
class Tenants:
    """An application whose tenants are files of a folder, or schemas of `server`."""

    root: Path
    kind: str
    server: str | None = None
    beginning: str = ""
    r1: str = R1
    r2: str = R2
    engine: AsyncEngine | None = None
    """The application's own, which all schemas are migrated by; else each has its URL."""

    def __post_init__(self) -> None:
        made = project(self.root, "generic", self.server or "sqlite://", revisions=self._revisions)
        self.config = made.config
        env = ENV.format(switch=SWITCH, beginning=self.beginning, online=ONLINE[self.kind])
        (made.versions.parent / "env.py").write_text(env, "utf-8")

    def _revisions(self, folder: Path) -> None:
        for number, body in enumerate((self.r1, self.r2, R3), 1):
            down = f"r{number - 1}" if number > 1 else None
            revision(folder, f"r{number}", down, upgrade=body, imports=SWITCH)

    def url(self, name: str, place: str = "ours") -> str:
        if self.server is not None:
            return self.server
        folder = self.root / place
        folder.mkdir(exist_ok=True)
        return f"sqlite+aiosqlite:///{folder / name}.db"

    def target(self, name: str, **options: Any) -> Target:
        if self.server is not None:
            options["version_table_schema"] = name
        if self.kind == "given":
            options["drive"] = "given"
        database = self.engine or self.url(name)
        return Target(database, self.config, name=name, x=[f"tenant={name}"], **options)

    async def brought(self, name: str, **options: Any) -> Report:
        """One tenant, beside those that others bring."""
        passed = sys.modules.get("turnstile")
        try:
            with beside_others():
                return await Migrator(self.target(name, **options), mode="migrate").run()
        finally:
            if isinstance(passed, Turnstile):
                passed.left(name)

    async def all_brought(self, names: Sequence[str]) -> list[Report | BaseException]:
        return await asyncio.gather(*(self.brought(each) for each in names), return_exceptions=True)

    def plainly(self, names: Sequence[str], server: str | None = None) -> Any:
        """What plain Alembic makes of them, one after another, in another place."""
        other = Tenants(self.root / "plain", self.kind, server, self.beginning, self.r1, self.r2)
        other.emptied(names)
        ini = other.config.read_text("utf-8")
        for name in names:
            url = other.url(name)
            url = (url if self.kind == "async" else with_sync_driver(url)).replace("%", "%%")
            config = other.config.with_name(f"{name}.ini")
            config.write_text(ini.replace("driver://user:pass@localhost/dbname", url), "utf-8")
            upgraded(config, "-x", f"tenant={name}", check=name != "broken")
        return other.content(names)

    def emptied(self, names: Sequence[str]) -> None:
        """Have no tenant any more."""
        for name in names:
            if self.server is not None:
                query(self.server, f'drop schema if exists "{name}" cascade')
                query(self.server, f'create schema "{name}"')
            else:
                Path(make_url(self.url(name)).database or "").unlink(missing_ok=True)

    def content(self, names: Sequence[str]) -> Any:
        """All that there is of them."""
        if self.server is not None:
            return {k: v for k, v in checksums(self.server).items() if k != "schemas"}
        schema = "select type, name, tbl_name, sql from sqlite_master order by name"
        return {
            name: (contents(self.url(name)), list(map(tuple, query(self.url(name), schema))))
            for name in names
        }

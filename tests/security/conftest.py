"""Attackers: roles with chosen rights on a server, and a process of an unprivileged OS user."""

from __future__ import annotations

import multiprocessing
import os
import pwd
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
import support.starters  # noqa: F401 - the fork server loads once what an attacker's module imports
from sqlalchemy import make_url
from support.attacks import Scene, database_of
from support.postgres_backends import stamped
from support.postgres_server import Server

PASSWORD = "of a guest"

_context = multiprocessing.get_context("forkserver")


class Roles:
    """Roles that log in; each is dropped at the end, with all that it owns."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._made: list[str] = []

    def make(self, rights: str = "") -> str:
        """Make a role that may log in, with the options of CREATE ROLE in `rights`."""
        name = f"guest_{uuid.uuid4().hex[:8]}"
        self.server.execute(f"create role {name} login password '{PASSWORD}' {rights}")
        self._made.append(name)
        return name

    def url(self, role: str, database: str) -> str:
        """The URL by which a role reaches a database."""
        url = make_url(self.server.url(database)).set(username=role, password=PASSWORD)
        return url.render_as_string(hide_password=False)

    async def does(self, role: str, database: str, *statements: str) -> None:
        """Run statements as a role, on a connection of its own."""
        dsn = make_url(self.url(role, database)).set(drivername="postgresql")
        connection = await asyncpg.connect(dsn.render_as_string(hide_password=False))
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    def drop(self) -> None:
        for role in self._made:
            for (name,) in self.server.execute(
                "select datname from pg_database where pg_get_userbyid(datdba) = $1", role
            ):
                self.server.drop(name)
            for name in self.server.databases("am_"):
                with suppress(asyncpg.InvalidCatalogNameError):  # dropped by another test
                    self.server.execute(f"drop owned by {role}", database=name)
            self.server.execute(f"drop role {role}")


@pytest.fixture
def roles(postgres_server: Server, empty_databases: object) -> Iterator[Roles]:
    made = Roles(postgres_server)
    yield made
    made.drop()


@pytest.fixture
def scene(
    roles: Roles, postgres_server: Server, postgres_url: str, make_target: Callable[..., Any]
) -> Iterator[Scene]:
    """An application that owns its database, at r1, and a guest with CREATE in it."""
    live, app, guest = database_of(postgres_url), roles.make(), roles.make()
    made = Scene(postgres_server, roles, live, app, guest, make_target)
    postgres_server.execute(f'alter database "{live}" owner to {app}')
    postgres_server.execute(f'grant create on database "{live}" to {guest}')
    stamped(postgres_server, live, "r1")
    made.do(
        f"alter table alembic_version owner to {app}",
        "create table users (id int primary key, name text)",
        f"alter table users owner to {app}",
        "insert into users values (1, 'one of ours')",
    )
    yield made
    if live in postgres_server.databases(live):  # so that it can be lent again
        postgres_server.execute(f'alter database "{live}" owner to current_user')
        postgres_server.execute(f'revoke all on database "{live}" from {app}, {guest}')


@pytest.fixture
def as_nobody() -> Callable[..., Any]:
    """`as_nobody(work, *arguments)`: what `work` returns in a process of the user nobody."""
    if os.geteuid() != 0:
        pytest.skip("only root can start a process of another user")

    def run(work: Callable[..., Any], *arguments: Any) -> Any:
        here, there = _context.Pipe()
        process = _context.Process(target=_nobody, args=(there, work, arguments))
        process.start()
        there.close()
        try:
            returned, raised = here.recv()
        finally:
            process.join(30)
            process.kill()
        if raised is not None:
            raise raised
        return returned

    return run


def _nobody(pipe: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    nobody = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)
    try:
        pipe.send((work(*arguments), None))
    except Exception as error:  # noqa: BLE001 - told to the test
        pipe.send((None, error))


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A sticky folder that everybody may write to, reachable for everybody, as /tmp is."""
    with tempfile.TemporaryDirectory(prefix="automigrator-shared-") as folder:
        os.chmod(folder, 0o1777)
        yield Path(folder)


@pytest.fixture(params=[0o000, 0o077], ids=["umask-000", "umask-077"])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)

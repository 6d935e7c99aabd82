"""What the tests of the public face share: projects for a database, an application's logging."""

from __future__ import annotations

import logging
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlalchemy import make_url
from support import alembic_projects as _projects
from support import postgres_server as _postgres

from automigrator import Target


class EmptyDatabases:
    """PostgreSQL databases emptied and lent again: to create one takes a quarter of a second."""

    def __init__(self, server: _postgres.Server) -> None:
        self.server = server
        self.free: list[str] = []

    @contextmanager
    def lent(self) -> Iterator[str]:
        """The URL of an empty database, for one test."""
        if not self.free:
            self.free.append(f"am_{uuid.uuid4().hex[:12]}")
            self.server.create(self.free[-1])
        name = self.free.pop()
        yield self.server.url(name)
        for other in self.server.databases(f"{name}_"):
            self.server.drop(other)
        try:
            self.server.execute(EMPTY, database=name)
            usual = self.server.execute(USUAL, name)[0][0]
        except (asyncpg.PostgresError, OSError):
            usual = False
        if usual:
            self.free.append(name)
        else:
            self.server.drop_all(name)

    def drop(self) -> None:
        for name in self.free:
            self.server.drop(name)


EMPTY = """
do $$ declare name text; begin
    set local lock_timeout = '1s';
    for name in select nspname from pg_namespace
                where nspname !~ '^pg_' and nspname <> 'information_schema' loop
        execute format('drop schema %I cascade', name);
    end loop;
    create schema public authorization pg_database_owner;
    grant usage on schema public to public;
    if exists (select from pg_foreign_data_wrapper) or exists (select from pg_publication)
        or exists (select from pg_largeobject_metadata) or exists (select from pg_event_trigger)
        or exists (select from pg_extension where extname <> 'plpgsql')
        or exists (select from pg_default_acl) then
        raise 'not empty';
    end if;
end $$
"""
USUAL = """
select shobj_description(d.oid, 'pg_database') is null
       and d.datdba = (select oid from pg_roles where rolname = current_user)
       and coalesce(d.datacl, acldefault('d', d.datdba)) = acldefault('d', d.datdba)
       and not exists (select from pg_db_role_setting s where s.setdatabase = d.oid)
       and not exists (select from pg_stat_activity a where a.datid = d.oid)
from pg_database d where d.datname = $1
"""
"""Whether nothing but its contents was changed, and nobody is connected."""


@pytest.fixture(scope="session")
def empty_databases(postgres_server: _postgres.Server) -> Iterator[EmptyDatabases]:
    databases = EmptyDatabases(postgres_server)
    yield databases
    databases.drop()


@pytest.fixture
def postgres_url(empty_databases: EmptyDatabases) -> Iterator[str]:
    """The URL of an empty database."""
    with empty_databases.lent() as url:
        yield url


@pytest.fixture
def other_url(database_url: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A second database of the kind of `database_url`: the one a configuration wrongly names."""
    if make_url(database_url).get_backend_name() == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'other.db'}"
        return
    with request.getfixturevalue("empty_databases").lent() as url:
        yield url


@pytest.fixture
def pooler_folder() -> Iterator[Path]:
    """One that an unprivileged user can reach, as pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="automigrator-pgbouncer-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder) / "pooler"


@pytest.fixture
def versions(tmp_path: Path) -> Path:
    """The folder of revisions that `make_target` uses."""
    return tmp_path / "migrations" / "versions"


@pytest.fixture
def make_target(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Target]:
    """`make_target(revisions, kind=…, database=…, **options of Target)`, by default an async
    env.py with `linear` on `database_url`; a second call needs another `folder`."""

    def make(
        revisions: Callable[[Path], object] = _projects.linear,
        *,
        kind: str = "async",
        database: Any = None,
        folder: str = "",
        **options: Any,
    ) -> Target:
        if database is None:
            database = request.getfixturevalue("database_url")
        url = str(getattr(database, "url", database))
        made = _projects.project(tmp_path / folder, kind, url, revisions=revisions)
        return Target(database, made.config, **{**made.options, **options})

    return make


@pytest.fixture(autouse=True)
def application_logger(tmp_path: Path) -> Iterator[logging.Logger]:
    """A logger the application has configured, as every run finds it."""
    logger = logging.getLogger("the.application")
    handler = logging.FileHandler(tmp_path.with_suffix(".log"))
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    yield logger
    logger.removeHandler(handler)
    handler.close()

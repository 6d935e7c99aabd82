"""Errors of PostgreSQL and its drivers become a kind of failure, and advice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlalchemy import NullPool, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from support.postgres_backends import TABLES, made
from support.postgres_server import Server, stoppable

from automigrator.backends.access import Access
from automigrator.backends.postgresql import errors
from automigrator.backends.postgresql.backend import PostgreSQL
from automigrator.backends.registry import backend_for
from automigrator.target import Target


@pytest.mark.long(
    "psycopg-select 1",
    "psycopg-create",
    "psycopg-set",
    "psycopg-do $$ begin raise sqlstate '53100'",
    "XX001",
)
@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("select nonsense", None),
        ("select 1/0", None),
        ("create role nobody_may", "auth"),
        ("set statement_timeout to '50ms'; select pg_sleep(5)", "timeout"),
        ("set transaction read only; create table t ()", "read-only"),
        ("select pg_terminate_backend(pg_backend_pid())", "unreachable"),
        ("do $$ begin raise sqlstate '53100'; end $$", "disk-full"),
        ("do $$ begin raise sqlstate 'XX001'; end $$", "corrupt"),
        ("do $$ begin raise sqlstate '40P01'; end $$", "lock-timeout"),
        ("execute not_prepared", None),
        ("do $$ begin raise 'no \"__asyncpg_1\"' using errcode = '26000'; end $$", "unreachable"),
    ],
)
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_statements_failure_is_told_by_the_servers_code(
    postgres_url: str, role: str, driver: str, statement: str, kind: str | None
) -> None:
    url = make_url(postgres_url).set(drivername=f"postgresql+{driver}", username=role)
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.connect() as connection:
        *before, last = [statement] if "$$" in statement else statement.split("; ")
        for each in before:
            await connection.execute(text(each))
        with pytest.raises(DBAPIError) as caught:
            await connection.execute(text(last))
        await connection.invalidate()
    assert made(url).classify(caught.value).kind == kind


async def test_the_error_that_failed_the_transaction_decides_and_not_its_aftermath(
    backend: PostgreSQL,
) -> None:
    async def batch() -> None:
        async with engine.connect() as connection:
            try:
                await connection.execute(text("do $$ begin raise sqlstate '53100'; end $$"))
            finally:
                await connection.execute(text("select 1"))

    engine = backend.engine()
    with pytest.raises(DBAPIError) as caught:
        await batch()
    await backend.release(engine)
    assert "current transaction is aborted" in str(caught.value)
    assert backend.classify(caught.value).kind == "disk-full"


@pytest.mark.long("psycopg-change0", "psycopg-change1", "psycopg-change4")
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"port": 1}, "unreachable"),
        ({"host": "localhost", "port": 1}, "unreachable"),
        ({"host": "no-such-host.invalid"}, "unreachable"),
        ({"username": "no_such_role"}, "auth"),
        ({"database": "closed"}, "auth"),
    ],
)
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_refused_connection_is_told_apart_from_a_missing_server(
    postgres_server: Server,
    postgres_url: str,
    live: str,
    role: str,
    driver: str,
    change: dict[str, Any],
    kind: str,
) -> None:
    url = make_url(postgres_url).set(drivername=f"postgresql+{driver}").set(**change)
    if "database" in change:
        postgres_server.execute(f"revoke connect on database {live} from public")
        url = url.set(database=live, username=role)
    app = create_async_engine(url)
    backend = backend_for(Access(Target(app, Path(__file__).parent)))
    assert backend.access.url.drivername == f"postgresql+{driver}"
    with pytest.raises((DBAPIError, OSError)) as caught:
        await backend.look(TABLES)
    assert backend.classify(caught.value).kind == kind
    await app.dispose()


@pytest.fixture(scope="module")
def german_server() -> Iterator[Server]:
    with stoppable(language="de") as (server, _):
        with pytest.raises(asyncpg.PostgresError) as caught:
            server.execute("select * from nichts")
        if "existiert nicht" not in str(caught.value):
            pytest.skip("PostgreSQL has no German messages on this machine")
        yield server


@pytest.mark.long
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_server_of_another_language_is_understood(
    german_server: Server, driver: str, tmp_path: Path
) -> None:
    url = german_server.admin.set(drivername=f"postgresql+{driver}")
    refused, absent = (
        create_async_engine(url.set(**change))
        for change in ({"username": "niemand"}, {"database": f"nichts_{driver}"})
    )
    backend = backend_for(Access(Target(refused, tmp_path)))
    with pytest.raises(DBAPIError, match="existiert nicht") as caught:
        await backend.look(TABLES)
    assert backend.classify(caught.value).kind == "auth"
    backend = backend_for(Access(Target(absent, tmp_path)))
    assert not (await backend.look(TABLES)).exists
    assert await backend.create()
    await refused.dispose()
    await absent.dispose()


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("application_name=x&options=-c%20geqo%3Doff&target_session_attrs=read-write", "3D000"),
        ("gssencmode=prefer&channel_binding=prefer&sslmode=prefer&connect_timeout=9", "3D000"),
        ("require_auth=none", None),
    ],
)
async def test_psycopgs_refusal_gets_a_code_where_asyncpg_can_be_told_all_of_its_options(
    postgres_server: Server, query: str, code: str | None, tmp_path: Path
) -> None:
    url = make_url(postgres_server.url("absent")).set(drivername="postgresql+psycopg")
    access = Access(Target(url.update_query_string(query), tmp_path))
    with pytest.raises(DBAPIError) as caught:
        async with access.connection():
            pass
    await errors.with_code(caught.value, access, "absent")
    assert errors.own_code(caught.value.__cause__) == code
    assert errors.code_of(caught.value) == "3D000"  # its English words tell as well


def test_errors_unrelated_to_the_server_are_not_classified(
    backend: PostgreSQL, tmp_path: Path
) -> None:
    with pytest.raises(OSError) as caught:
        (tmp_path / "absent").read_text()
    assert backend.classify(caught.value).kind is None
    assert backend.classify(ValueError("connection")).kind is None

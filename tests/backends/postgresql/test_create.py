"""Reaching and creating a PostgreSQL database: absent, refused, or created once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from support.postgres_backends import TABLE, TABLES, made
from support.postgres_server import Server

from automigrator.backends.access import Access
from automigrator.backends.postgresql.backend import PostgreSQL
from automigrator.backends.postgresql.looks import Sights
from automigrator.backends.postgresql.maintenance import Maintenance
from automigrator.backends.postgresql.names import TargetName
from automigrator.target import Target


async def test_an_absent_database_is_an_answer_and_stays_absent(
    postgres_server: Server, postgres_name: str
) -> None:
    sight = await made(postgres_server.url(postgres_name)).look(TABLES)
    assert not sight.exists and sight.heads == {TABLE: None}
    assert postgres_server.databases(postgres_name) == []


@pytest.mark.long("psycopg")
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_creating_says_whether_it_did(
    postgres_server: Server, postgres_name: str, driver: str
) -> None:
    url = make_url(postgres_server.url(postgres_name)).set(drivername=f"postgresql+{driver}")
    backend = PostgreSQL(Access(Target(create_async_engine(url), Path(__file__).parent)), None)
    assert not (await backend.look(TABLES)).exists
    assert await backend.create()
    assert not await backend.create()
    assert (await backend.look(TABLES)).exists


async def test_of_many_that_create_at_once_exactly_one_did(
    postgres_server: Server, postgres_name: str
) -> None:
    backends = [made(postgres_server.url(postgres_name)) for _ in range(6)]
    created = await asyncio.gather(*(each.create() for each in backends))
    assert sorted(created) == [False] * 5 + [True]


async def test_a_role_that_may_not_create_is_told_what_to_do(
    postgres_server: Server, postgres_name: str, role: str
) -> None:
    url = make_url(postgres_server.url(postgres_name)).set(username=role)
    with pytest.raises(Exception, match="give the role CREATEDB") as caught:
        await made(url).create()
    assert made(url).classify(caught.value).kind == "auth"


async def test_without_a_maintenance_database_absence_is_not_believed(
    postgres_server: Server, postgres_name: str
) -> None:
    backend = made(postgres_server.url(postgres_name), f"{postgres_name}_either")
    with pytest.raises(DBAPIError) as caught:
        await backend.look(TABLES)
    assert backend.classify(caught.value).kind == "unreachable"
    with pytest.raises(Exception, match=r"Target\(maintenance_database=") as caught_too:
        await backend.create()
    assert backend.classify(caught_too.value).kind == "unreachable"


@pytest.mark.long
async def test_a_database_that_is_listed_but_not_found_by_a_connection_is_not_absent(
    postgres_server: Server, live: str, postgres_name: str
) -> None:
    """As during a swap: the connection asks for a name, the catalog has another."""
    access = made(postgres_server.url(postgres_name)).access
    name = TargetName(access)
    name.own = live
    sights = Sights(access, name, Maintenance(access, name, None).connection)
    with pytest.raises(DBAPIError, match="does not exist"):
        await sights.look(TABLES, None)

"""What two databases are compared by: a change of anything that a revision makes is seen."""

from __future__ import annotations

import pytest
from sqlalchemy import NullPool
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from automigrator.backends.contract.sides import Contents
from automigrator.backends.postgresql import contents as of_server
from automigrator.backends.sqlite import contents as of_file

FIRST = """
    create type mood as enum ('sad', 'ok');
    create domain age as int check (value > 0);
    create sequence numbers;
    create table users (id serial primary key, name varchar(20) default 'x', score int, m mood);
    create table posts (id int primary key, user_id int references users (id));
    create index ix on users (name);
    create view names as select name from users;
    create function twice(int) returns int language sql immutable as 'select 2 * $1';
    create function noted() returns trigger language plpgsql as 'begin return new; end';
    create trigger noted before insert on users for each row execute function noted();
    alter table users enable row level security;
    create policy own on users using (name = 'x');
    insert into users (name, score) values ('Ann', 1), ('Bob', 2)
"""
CHANGES = (
    "alter table users alter name set default 'y'",
    "alter table users alter score type bigint",
    "alter table users alter score set not null",
    "alter table users alter score set statistics 7",
    "alter table users add check (score > 0)",
    "alter table users set (fillfactor = 70)",
    "alter table users replica identity full",
    "alter table users force row level security",
    "alter table posts drop constraint posts_user_id_fkey, add foreign key (user_id) "
    "references users (id) deferrable",
    "alter table posts drop constraint posts_user_id_fkey, add foreign key (user_id) "
    "references users (id) not valid",
    "drop index ix; create index ix on users (name desc)",
    "drop index ix; create index ix on users (name) where score > 1",
    "drop index ix; create unique index ix on users (name)",
    "alter type mood add value 'happy'",
    "alter domain age drop constraint age_check",
    "alter sequence numbers cycle",
    "alter sequence numbers owned by users.score",
    "select nextval('numbers')",
    "create or replace view names as select name from users where score > 1",
    "create or replace function twice(int) returns int language sql immutable as 'select 3 * $1'",
    "alter function twice(int) volatile",
    "alter table users disable trigger noted",
    "drop policy own on users; create policy own on users using (name = 'y')",
    "comment on column users.name is 'the name'",
    "grant select on users to public",
    "grant select (name) on users to public",
    "create statistics s on name, score from users",
    "create rule r as on delete to users do instead nothing",
    "alter default privileges grant select on tables to public",
    "create publication p for table users",
    "create table t (id int generated always as identity)",
    "create schema other",
    "update users set name = 'Zoë' where score = 1",
    "insert into users (id, name, score) values (9, 'Ann', 1)",
    "delete from users where score = 1",
)
OF_A_FILE = (
    "alter table users add column age int",
    "create index i on users (name)",
    "create view v as select 1",
    "pragma user_version = 3",
    "update users set name = 'x' where id = 1",
    "update users set name = x'41' where id = 1",
    "insert into users values (3, 'Ann')",
)


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_in_postgresql_is_seen(change: str, postgres_url: str) -> None:
    engine = create_async_engine(postgres_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    found: list[Contents] = []
    async with engine.connect() as connection:
        raw = await connection.get_raw_connection()
        assert raw.driver_connection is not None
        for script in (FIRST, "select 1", change):
            await raw.driver_connection.execute(script)
            found.append(await of_server.contents(connection))
        await raw.driver_connection.execute("drop publication if exists p")
    assert found[0] == found[1]
    assert found[1] != found[2]


@pytest.mark.parametrize("change", OF_A_FILE)
async def test_a_change_in_a_file_is_seen(change: str, sqlite_url: str) -> None:
    engine = create_async_engine(sqlite_url, poolclass=NullPool)

    def changed(connection: Connection) -> list[Contents]:
        found = []
        first = "create table users (id integer primary key, name)"
        for sql in (first, "insert into users values (1, 'A'), (2, null)", "select 1", change):
            connection.exec_driver_sql(sql)
            connection.commit()
            found.append(of_file.contents(connection))
        return found[1:]

    async with engine.connect() as connection:
        before, again, after = await connection.run_sync(changed)
    assert before == again
    assert again != after

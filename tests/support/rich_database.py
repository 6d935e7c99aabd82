"""Statements that make a PostgreSQL database of nearly all that a dump can hold."""

from __future__ import annotations

RICH = (
    "create table alembic_version (version_num varchar(32) primary key)",
    "insert into alembic_version values ('r1')",
    "create extension pg_trgm",
    "create schema app",
    "create schema ext",
    "create extension pgcrypto schema ext",
    "create type app.mood as enum ('sad', 'ok', 'it''s \\ fine')",
    "create domain app.positive as int check (value > 0)",
    "create function app.twice(int) returns int language sql immutable return $1 * 2",
    "create sequence counter start 7",
    "select nextval('counter')",
    """create table users (id serial primary key, "odd ""name" text, mood app.mood default 'ok',
       n app.positive, twice int generated always as (app.twice(1)) stored, data bytea)""",
    """create table posts (id int generated always as identity primary key,
       user_id int references users on delete cascade, body text,
       kind varchar(5) check (kind in ('a', 'b')), at timestamptz default now())""",
    "create index on posts using gin (body gin_trgm_ops)",
    "create table parted (day date, n int) partition by range (day)",
    "create table parted_1 partition of parted for values from ('2024-01-01') to ('2025-01-01')",
    "create view loud as select upper(body) as body from posts",
    "create materialized view counted as select count(*) as n from posts",
    """create function noticed() returns trigger language plpgsql as
       'begin raise exception ''no restore fires a trigger''; end'""",
    """insert into users ("odd ""name", mood, n, data) select 'u' || g, 'sad', g, decode(
       md5(g::text), 'hex') from generate_series(1, 200) g""",
    """insert into posts (user_id, body, kind) select g, E'line\\n\\\\. tab\\t' || g, 'a'
       from generate_series(1, 200) g""",
    "insert into parted select date '2024-01-01' + g, g from generate_series(0, 99) g",
    "create trigger noticed before insert on posts for each row execute function noticed()",
    "alter table posts enable row level security",
    "create policy own on posts using (user_id > 0)",
    "create statistics on_users on id, n from users",
    "grant select on users to pg_monitor",
    "grant usage on schema app to pg_monitor",
    "comment on table users is 'ours'",
    "refresh materialized view counted",
)

"""Only a database's own word on its data or schema allows anything to be discarded."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from automigrator.backends.postgresql import errors as postgresql
from automigrator.backends.sqlite import errors as sqlite

OF_DATA = (
    *("22001", "22003", "22012", "22P02"),
    *("23502", "23503", "23505", "23514", "23P01"),
    *("42P01", "42703", "42P07", "42701", "42710", "42601", "42804"),
)
OF_THE_SURROUNDINGS = (
    *("42501", "42883", "42704"),  # a right, a function, a type or collation
    "22023",  # a role, or a setting's value
    *("53000", "53100", "53200", "53300", "53400", "54000", "54001", "54011"),
    *("55000", "55006", "55P03", "57000", "57014", "57P01", "57P04", "58000", "58030", "58P01"),
    *("XX000", "XX001", "XX002", "25P02", "25006", "40001", "40003", "40P01", "08006", "28000"),
    *("0A000", "21000", "2BP01", "3F000", "F0000", "HV000", "P0001", "38000", "39000"),
)


async def test_postgresql_may_be_taken_at_its_word_in_three_classes_of_codes(
    postgres_url: str,
) -> None:
    engine = create_async_engine(postgres_url)
    async with engine.connect() as connection:

        async def raised(code: str) -> DBAPIError:
            with pytest.raises(DBAPIError) as caught:
                await connection.exec_driver_sql(
                    f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{code}'; END $$"
                )
            await connection.rollback()
            return caught.value

        found = await all_of(raised, (*OF_DATA, *OF_THE_SURROUNDINGS))
    await engine.dispose()
    assert found == set(OF_DATA)


async def all_of(
    raised: Callable[[str], Awaitable[DBAPIError]], codes: tuple[str, ...]
) -> set[str]:
    return {code for code in codes if postgresql.classify(await raised(code)).of_data}


async def test_an_earlier_error_lends_its_code_to_no_other(postgres_url: str) -> None:
    connection = await asyncpg.connect(
        make_url(postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
    )
    error = LookupError("no luck")
    with pytest.raises(asyncpg.UndefinedTableError) as caught:
        await connection.execute("SELECT * FROM absent")
    await connection.close()
    error.__context__ = caught.value
    assert postgresql.classify(caught.value).of_data
    assert not postgresql.classify(error).of_data


SETUP = """
CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE CHECK (text <> ''));
INSERT INTO notes VALUES (1, 'milk');
"""
SQLITE_OF_DATA = {
    "a constraint": "INSERT INTO notes VALUES (2, 'milk')",
    "NOT NULL": "INSERT INTO notes VALUES (2, NULL)",
    "a check": "INSERT INTO notes VALUES (2, '')",
    "no table": "SELECT * FROM absent",
    "no column": "SELECT absent FROM notes",
    "a table that is there": "CREATE TABLE notes (id)",
    "a new column without a value": "ALTER TABLE notes ADD COLUMN x NOT NULL",
    "a mismatch": "INSERT INTO notes VALUES ('no number', 'x')",
}
SQLITE_OF_THE_SURROUNDINGS = {
    "no function": "SELECT absent(text) FROM notes",
    "no module": "CREATE VIRTUAL TABLE v USING absent(x)",
    "no tokenizer": "CREATE VIRTUAL TABLE v USING fts5(x, tokenize = 'absent')",
    "no tokenizer of an older kind": "CREATE VIRTUAL TABLE v USING fts4(x, tokenize=absent)",
    "no collation": "SELECT * FROM notes ORDER BY text COLLATE absent",
    "a function that raises": "SELECT broken(text) FROM notes",
    "an extension": "SELECT load_extension('absent')",
    "a transaction": "BEGIN",
    "VACUUM in a transaction": "VACUUM",
    "a limit of the library": f"SELECT {'(' * 1500}1{')' * 1500}",
    "a full disk": "INSERT INTO notes SELECT 9, hex(zeroblob(90000))",
    "a file that cannot be opened": "ATTACH '/absent/absent.db' AS other",
}


def error_of(connection: sqlite3.Connection, statement: str) -> sqlite3.Error:
    with pytest.raises(sqlite3.Error) as caught:
        connection.execute(statement).fetchall()
    return caught.value


def test_sqlite_may_be_taken_at_its_word_where_data_or_schema_are_in_the_way(
    tmp_path: Path,
) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as connection:
        connection.executescript(SETUP)
        connection.create_function("broken", 1, lambda _: {}["absent"])
        connection.execute("PRAGMA max_page_count = 4")
        connection.execute("BEGIN")
        everything = {**SQLITE_OF_DATA, **SQLITE_OF_THE_SURROUNDINGS}
        found = set()
        for what, statement in everything.items():
            if sqlite.classify(error_of(connection, statement)).of_data:
                found.add(what)
            if not connection.in_transaction:
                connection.execute("BEGIN")
    assert found == set(SQLITE_OF_DATA)


def test_a_lock_that_another_connection_holds_is_not_the_databases_word(tmp_path: Path) -> None:
    with (
        closing(sqlite3.connect(tmp_path / "a.db", timeout=0)) as connection,
        closing(sqlite3.connect(tmp_path / "a.db", timeout=0)) as other,
    ):
        connection.executescript(SETUP)
        other.execute("BEGIN IMMEDIATE")
        error = error_of(connection, "INSERT INTO notes VALUES (2, 'bread')")
    assert not sqlite.classify(error).of_data


def test_a_view_that_this_sqlite_cannot_read_is_no_damage(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.executescript(SETUP + UNREADABLE)
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        error = error_of(connection, "SELECT * FROM notes")
    assert error.sqlite_errorcode == sqlite3.SQLITE_CORRUPT
    verdict = sqlite.classify(error)
    assert (verdict.kind, verdict.of_data) == ("env", False)
    assert sqlite3.sqlite_version in verdict.advice


UNREADABLE = """
PRAGMA writable_schema = ON;
INSERT INTO sqlite_master
VALUES ('view', 'newer', 'newer', 0, 'CREATE VIEW newer AS SELECT 1 ->>> 2');
"""

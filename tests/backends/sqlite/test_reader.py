"""A SQLite file is verified before it is trusted."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support.sqlite_files import DAMAGE, MODES, checksum, connect, damage, make, names, waiting

from automigrator.backends.sqlite import reader


@pytest.mark.parametrize("mode", MODES)
def test_verify_reads_the_versions_and_leaves_no_sidecars(tmp_path: Path, mode: str) -> None:
    live = make(tmp_path / "app.db", mode, rows=5)
    with closing(connect(live)) as connection:
        connection.execute("INSERT INTO alembic_version VALUES ('a0')")
        connection.execute('CREATE TABLE "odd ""name"(version_num)')
    before = live.read_bytes()
    assert reader.verify(live) == ("a0", "a1")
    assert reader.verify(live, ['odd "name']) == ()
    assert reader.verify(live, ["other"]) == ()
    assert names(tmp_path) == ["app.db"]
    assert live.read_bytes() == before


def test_verify_sees_what_is_only_in_the_wal(tmp_path: Path) -> None:
    live = make(tmp_path / "app.db", "wal", rows=5)
    with closing(connect(live)) as application:
        application.execute("UPDATE alembic_version SET version_num = 'b2'")
        assert reader.verify(live) == ("b2",)
        assert (tmp_path / "app.db-wal").stat().st_size > 0


def test_verify_never_takes_a_locked_database_for_a_damaged_one(tmp_path: Path) -> None:
    live = make(tmp_path / "app.db", rows=5)
    with closing(connect(live)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with waiting(0.1), pytest.raises(TimeoutError):
            reader.verify(live)
        holder.execute("ROLLBACK")


@pytest.mark.parametrize("how", [*DAMAGE, "bad leaf"])
def test_verify_raises_on_a_damaged_file(tmp_path: Path, how: str) -> None:
    live = make(tmp_path / "app.db", rows=200)
    if how == "bad leaf":
        with live.open("rb+") as file:
            file.seek(4096 * 100)
            file.write(b"\xff" * 4096)
    else:
        damage(live, how)
    with pytest.raises(sqlite3.DatabaseError) as caught:
        reader.verify(live)
    assert caught.value.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    assert names(tmp_path) == ["app.db"]


def test_verify_raises_on_damage_that_no_query_meets(tmp_path: Path) -> None:
    live = make(tmp_path / "app.db", rows=20)
    with live.open("rb+") as file:
        file.seek(36)  # the header's count of free pages
        file.write((5).to_bytes(4, "big"))
    before = checksum(live)
    with pytest.raises(sqlite3.DatabaseError, match="(?s)is damaged: .*freelist"):
        reader.verify(live)
    assert checksum(live) == before


def test_verify_takes_an_empty_file_for_an_empty_database(tmp_path: Path) -> None:
    (tmp_path / "app.db").touch()
    assert reader.verify(tmp_path / "app.db") == ()


def test_verify_accepts_rows_and_schemas_that_only_the_application_understands(
    tmp_path: Path,
) -> None:
    live = make(tmp_path / "app.db", rows=200)
    with closing(connect(live)) as connection:
        connection.create_collation("mine", lambda a, b: (a > b) - (a < b))
        connection.create_function("fine", 1, lambda x: True, deterministic=True)
        connection.executescript(
            "CREATE TABLE word(w TEXT COLLATE mine PRIMARY KEY, c CHECK (fine(c))) WITHOUT ROWID;"
            "INSERT INTO word VALUES ('a', 1), ('b', 2);"
            "CREATE TABLE loose(x CHECK (x > 5)); PRAGMA ignore_check_constraints=ON;"
            "INSERT INTO loose VALUES (1), (NULL); PRAGMA writable_schema=ON;"
            "UPDATE sqlite_master SET sql = 'CREATE TABLE loose(x NOT NULL)' WHERE name = 'loose'"
        )
    assert reader.verify(live) == ("a1",)
    with live.open("rb+") as file:
        file.seek(4096 * 100)
        file.write(b"\xff" * 4096)
    with pytest.raises(sqlite3.DatabaseError):
        reader.verify(live)

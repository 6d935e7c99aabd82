"""Databases of about a size: customers, their orders, the files of some, and five indexes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Protocol

START = "r1"
TABLES = (
    "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
    f"INSERT INTO alembic_version VALUES ('{START}')",
    "CREATE TABLE customers (id INTEGER PRIMARY KEY, email TEXT NOT NULL UNIQUE,"
    " name TEXT NOT NULL, joined TEXT NOT NULL)",
    "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL"
    " REFERENCES customers (id), state TEXT NOT NULL, placed TEXT NOT NULL, note TEXT)",
    "CREATE INDEX orders_customer ON orders (customer_id)",
    "CREATE INDEX orders_placed ON orders (placed, state)",
)
SQLITE = (
    "CREATE TABLE files (id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL, content BLOB NOT NULL)",
    "CREATE INDEX files_order ON files (order_id)",
    "INSERT INTO customers SELECT i, hex(randomblob(8)) || '@example.org', hex(randomblob(10)),"
    " datetime(1700000000 + i, 'unixepoch') FROM numbers LIMIT {customers}",
    "INSERT INTO orders SELECT i, i * 7919 % {customers} + 1, CASE i % 3 WHEN 0 THEN 'paid' ELSE"
    " 'open' END, datetime(1700000000 + i, 'unixepoch'), hex(randomblob(60)) FROM numbers"
    " LIMIT {orders}",
    "INSERT INTO files SELECT i, i, randomblob(i * 7919 % 20000) FROM numbers LIMIT {files}",
)
POSTGRESQL = (
    "CREATE TABLE files (id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL,"
    " content BYTEA NOT NULL)",
    "ALTER TABLE files ALTER content SET STORAGE EXTERNAL",
    "CREATE INDEX files_order ON files (order_id)",
    "INSERT INTO customers SELECT i, md5(i::text) || '@example.org', md5((-i)::text),"
    " (timestamp '2026-01-01' + i * interval '1 s')::text"
    " FROM generate_series(1, {customers}) i",
    "INSERT INTO orders SELECT i, i * 7919::bigint % {customers} + 1, CASE i % 3 WHEN 0 THEN 'paid'"
    " ELSE 'open' END, (timestamp '2026-01-01' + i * interval '1 s')::text,"
    " repeat(md5(i::text), 3) FROM generate_series(1, {orders}) i",
    "INSERT INTO files SELECT i, i, decode(repeat(md5(i::text), i % 1250), 'hex')"
    " FROM generate_series(1, {files}) i",
    "VACUUM ANALYZE",
)
NUMBERS = (
    "CREATE TEMP VIEW numbers AS WITH RECURSIVE n(i) AS"
    " (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
)


class Server(Protocol):
    def execute(self, sql: str, *, database: str | None = None) -> list[object]: ...


def rows(size_mb: int, customers: int, orders: int, files: int) -> dict[str, int]:
    """How many rows of each table make `size_mb`, from how many make 1024."""
    counts = {"customers": customers, "orders": orders, "files": files}
    return {name: max(count * size_mb // 1024, 10) for name, count in counts.items()}


def sqlite(path: Path, size_mb: int) -> None:
    counts = rows(size_mb, 470_000, 2_350_000, 47_000)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute(NUMBERS)
        connection.execute("BEGIN")
        for sql in (*TABLES, *SQLITE):
            connection.execute(sql.format(**counts))
        connection.execute("COMMIT")


def postgresql(server: Server, name: str, size_mb: int) -> None:
    counts = rows(size_mb, 450_000, 2_250_000, 44_000)
    for sql in (*TABLES, *POSTGRESQL):
        server.execute(sql.format(**counts), database=name)

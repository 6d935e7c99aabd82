"""Where tenants are: laid anew for each round, dumped, and what a run may not leave beside them."""

from __future__ import annotations

import fcntl
import json
import os
import re
import sqlite3
from argparse import Namespace
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import psycopg
from fleet_kills.rounds import Kind, Round, Start, Tenant
from support import alembic_projects, fleets
from support.alembic_projects import revision
from support.postgres_server import Server
from support.replayed_tenants import SCHEMA_ENV, dump
from support.starters import FORKSERVER

from automigrator.backends.postgresql.names import SCHEMA_OF_OURS

_SLEEP = {"files": "time.sleep(0.04)", "schemas": 'op.execute("select pg_sleep(0.04)")'}
_TABLES = (
    "create table users (id integer primary key, name varchar(50) not null, email varchar(50),"
    " visits integer not null)",
    "create table posts (id integer primary key, user_id integer not null"
    " references users (id) on delete cascade, body text not null)",
    "create table steps (step varchar(9) not null)",
)
_VERSION = (
    "create table alembic_version (version_num varchar(32) not null primary key)",
    "insert into alembic_version values ('r1')",
    "insert into steps values ('r1')",
)
_SECOND = (
    "alter table users add column mood varchar(9)",
    "update posts set body = body || '!'",
    "insert into steps values ('r2')",
)
_HALVES = """
with op.get_context().autocommit_block():
    op.execute("update users set visits = visits + 1 where id < 10")
    op.execute("update users set visits = visits + 1 where id >= 10")
"""
_GATED = """
while not __import__("os").path.exists({gate!r}):
    time.sleep(0.02)
"""
_THIRD = """
op.create_table("invoices", sa.Column("id", sa.Integer, primary_key=True))
op.create_index("one_email", "users", ["email"], unique=True)
op.execute("insert into steps values ('r3')")
"""
_FOURTH = """
with op.batch_alter_table("posts") as posts:
    posts.add_column(sa.Column("likes", sa.Integer, server_default="0"))
op.execute("insert into steps values ('r4')")
"""
_CONFIGURE = re.compile(r"context\.configure\(\s*(?=connection=)")
DAMAGE = b"this was a database " * 400


def history(folder: Path, drawn: Round) -> Path:
    """The Alembic project of a round; returns its ini."""
    sleep = _SLEEP.get(drawn.kind, _SLEEP["schemas"])

    def revisions(versions: Path) -> None:
        steps = [
            "\n".join(f"op.execute({each!r})" for each in (*_TABLES, _VERSION[-1])),
            "\n".join(f"op.execute({each!r})" for each in _SECOND),
            (_HALVES if drawn.halves else "") + _THIRD,
            _FOURTH,
        ]
        for number, step in enumerate(steps, 1):
            if drawn.gated and number == 3:
                step = _GATED.format(gate=str(folder / "gate")) + step
            body, down = f"{sleep}\n{step}\n{sleep}", f"r{number - 1}" if number > 1 else None
            imports = "import time" if drawn.kind == "files" or drawn.gated else ""
            revision(versions, f"r{number}", down, upgrade=body, imports=imports)

    ini = fleets.history(folder, revisions=revisions)
    env = ini.parent / "migrations" / "env.py"
    text = SCHEMA_ENV if drawn.kind == "schemas" else env.read_text("utf-8")
    if drawn.per_migration:
        text = _CONFIGURE.sub(r"\g<0>transaction_per_migration=True, ", text)
    env.write_text(text, "utf-8")
    return ini


def statements(name: str, start: Start, trouble: str) -> list[str]:
    """What a tenant is laid with; its name is in its rows."""
    if start == "base":
        return []
    users = [
        f"({n}, '{name} {n}', '{n % 19 if trouble == 'row' else n}@x', {n % 7})" for n in range(20)
    ]
    posts = [f"({n}, {n % 20}, 'a post of {name}')" for n in range(60)]
    told = [
        *(*_TABLES, *_VERSION),
        f"insert into users values {', '.join(users)}",
        f"insert into posts values {', '.join(posts)}",
    ]
    if start == "r2":
        told += [*_SECOND, "update alembic_version set version_num = 'r2'"]
    if trouble == "statement":
        told += ["create table invoices (id integer primary key, what text)"]
        told += [f"insert into invoices values (1, '{name}')"]
    return told


class Place(Protocol):
    """Tenants of one kind."""

    kind: Kind

    def told(self) -> str:
        """What the fleet's source is given: a folder or a URL."""

    def lay(self, name: str, start: Start, trouble: str) -> None:
        """Make a tenant, or a twin of one, and fill it."""

    def url(self, name: str) -> str:
        """Where a tenant is, for Alembic's own command."""

    def look(self) -> None:
        """Forget what was read: tenants have changed."""

    def dumped(self, name: str) -> str:
        """All of a tenant, with its name replaced."""

    def kept(self, name: str) -> list[str]:
        """Dumps of what strategies have kept of a tenant."""

    def stray(self, name: str) -> list[str]:
        """What no run may leave beside a tenant; a lock that is held."""


class Files:
    kind: Kind = "files"

    def __init__(self, folder: Path) -> None:
        self.folder, self._twins = folder / "tenants", folder / "twins"
        self.folder.mkdir()
        self._twins.mkdir()

    def told(self) -> str:
        return str(self.folder)

    def look(self) -> None:
        """Every dump is a new one."""

    def _path(self, name: str) -> Path:
        return (self.folder if name.startswith("tenant") else self._twins) / f"{name}.db"

    def lay(self, name: str, start: Start, trouble: str) -> None:
        with closing(sqlite3.connect(self._path(name))) as connection, connection:
            for each in statements(name, start, trouble):
                connection.execute(each)
        if trouble == "damage":
            self._path(name).write_bytes(DAMAGE)

    def url(self, name: str) -> str:
        return f"sqlite:///{self._path(name)}"

    def dumped(self, name: str) -> str:
        return self._dumped(self._path(name), name)

    def _dumped(self, path: Path, name: str) -> str:
        if path.read_bytes() == DAMAGE:
            return "damaged"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
            assert not connection.execute("pragma foreign_key_check").fetchall()
            lines = "\n".join(connection.iterdump()).splitlines()
        return "\n".join(sorted(each.strip(" ,") for each in lines)).replace(name, "NAME")

    def kept(self, name: str) -> list[str]:
        return [self._dumped(each, name) for each in self._beside(name) if _is_copy(each)]

    def stray(self, name: str) -> list[str]:
        path, found = self._path(name), []
        for each in self._beside(name):
            tail = each.name.removeprefix(path.name)
            if tail not in _OURS and not _is_copy(each):
                found.append(f"{each.name} was left")
        lock = path.with_name(f"{path.name}.automigrator-lock")
        if lock.exists():
            descriptor = os.open(lock, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append(f"{lock.name} is held")
            finally:
                os.close(descriptor)
        return found

    def _beside(self, name: str) -> list[Path]:
        path = self._path(name)
        return [each for each in sorted(self.folder.glob(f"{path.name}*")) if each != path]


# a progress without its journal counts for nothing: the next holder removes it
_OURS = (".automigrator-lock", ".automigrator-record.json", ".automigrator-progress.json")
_KEPT = (".snapshot-", ".purged-", ".replaced-", ".corrupt-")


def _is_copy(path: Path) -> bool:
    tail = path.name.partition(".db")[2]
    whole = "." not in tail[1:] and not tail.endswith(("-wal", "-shm", "-journal"))
    return whole and tail.startswith(_KEPT)


class Databases:
    kind: Kind = "databases"

    def __init__(self, server: Server) -> None:
        self.server = server

    def told(self) -> str:
        return self.server.url("postgres")

    def look(self) -> None:
        """Every dump is a new one."""

    def lay(self, name: str, start: Start, trouble: str) -> None:
        self.server.create(name)
        _execute(self.url(name), statements(name, start, trouble))

    def url(self, name: str) -> str:
        return alembic_projects.with_sync_driver(self.server.url(name))

    def dumped(self, name: str) -> str:
        return _lines(dump(self.server.url(name)), name)

    def kept(self, name: str) -> list[str]:
        return [
            _lines(dump(self.server.url(each)), name)
            for each, _ in self._beside(name)
            if each.partition("__automigrator_")[2].startswith(("snapshot_", "purged_", "undone_"))
        ]

    def stray(self, name: str) -> list[str]:
        found = []
        for each, comment in self._beside(name):
            kind = each.partition("__automigrator_")[2].partition("_")[0]
            told = json.loads(comment)["automigrator"] if comment else {}
            if kind not in ("snapshot", "purged", "undone") or told.get("state", "kept") != "kept":
                found.append(f"the database {each} was left: {comment}")
        open_ = (
            "select typname::text from pg_type"
            f" where typnamespace = to_regnamespace('{SCHEMA_OF_OURS}')"
            " and starts_with(typname, 'dump_')"
            """ and obj_description(oid, 'pg_type') not like '%"state": "kept"%'"""
        )
        found += [f"the record {each[0]}" for each in self.server.execute(open_, database=name)]
        return found

    def _beside(self, name: str) -> list[tuple[str, str]]:
        rows = self.server.execute(
            "select datname::text, shobj_description(oid, 'pg_database') from pg_database"
            " where starts_with(datname, $1) and datname <> $2 order by 1",
            *(f"{name}__", name),
        )
        return [(each[0], each[1] or "") for each in rows]


class Schemas:
    kind: Kind = "schemas"

    def __init__(self, server: Server) -> None:
        self.server, self.name = server, "shop"
        self._dump: list[str] | None = None
        server.create(self.name)

    def told(self) -> str:
        return self.server.url(self.name)

    def look(self) -> None:
        self._dump = None

    def lay(self, name: str, start: Start, trouble: str) -> None:
        told = [f"create schema {name}", f"set search_path to {name}"]
        _execute(self.url(name), told + statements(name, start, trouble))

    def url(self, name: str) -> str:
        return alembic_projects.with_sync_driver(self.told())

    def dumped(self, name: str) -> str:
        """Of one dump of all schemas, the statements about this one."""
        if self._dump is None:
            self._dump = dump(self.told()).split(";\n")
        own = [each for each in self._dump if re.search(rf"\b{name}\b", each)]
        return _lines("\n".join(own), name)

    def kept(self, name: str) -> list[str]:
        return []

    def stray(self, name: str) -> list[str]:
        return []


def _execute(url: str, told: list[str]) -> None:
    dsn = url.replace("+psycopg", "")
    if told:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("; ".join(told).encode())


def _lines(text: str, name: str) -> str:
    return "\n".join(sorted(each.strip(" ,") for each in text.splitlines())).replace(name, "NAME")


def _upgraded(ini: Path, told: Sequence[tuple[str, str, str]]) -> None:
    """What `alembic -x tenant=NAME upgrade REVISION` does at the command line, for each."""
    from alembic import command
    from alembic.config import Config

    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    for url, name, wanted in told:
        config = Config(ini, cmd_opts=Namespace(x=[f"tenant={name}"]))
        config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
        command.upgrade(config, wanted)


def twins(place: Place, ini: Path, tenants: Sequence[Tenant]) -> dict[tuple[str, str], str]:
    """Dumps of what plain Alembic makes of each start: at head, or before the revision that fails.

    By the start and the trouble that there is; of a tenant without any it is the one at head.
    """
    wanted: set[tuple[Any, str]] = {
        (each.start, each.trouble) for each in tenants if each.trouble != "damage"
    }
    names = {pair: f"twin_{'_'.join(pair)}" for pair in {*wanted, ("base", "")}}
    place.look()
    for (start, trouble), name in names.items():
        place.lay(name, start, trouble)
    told = [(place.url(name), name, "r2" if pair[1] else "head") for pair, name in names.items()]
    process = FORKSERVER.Process(target=_upgraded, args=(ini, told), daemon=True)
    process.start()
    process.join()
    assert process.exitcode == 0, "plain Alembic fails"
    return {pair: place.dumped(name) for pair, name in names.items()}

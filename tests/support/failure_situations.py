"""Every situation in which a start fails, each provoked for real; the catalogue of the failures."""

from __future__ import annotations

import shutil
import socket
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import make_url
from support import postgres_server
from support.failure_scene import PASSWORD, ROW, Scene, remount
from support.leaders import leading
from support.notes_application import BROKEN, GOOD, HALF_WAY, UNIQUE
from support.postgres_replicas import replicas

from automigrator import Migrator, Run, Target, hookimpl
from automigrator.failure import FailureKind

SQLITE, POSTGRES = ("aiosqlite",), ("asyncpg",)
BOTH = SQLITE + POSTGRES
STATEMENTS = (*POSTGRES, "psycopg")
"""What a statement meets is told by both drivers."""
EVERYWHERE = SQLITE + STATEMENTS
Provoke = Callable[[Scene], Target | Awaitable[Target]]


@dataclass(frozen=True)
class Situation:
    """`provoke` returns the target whose next start fails."""

    says: str
    kind: FailureKind
    drivers: tuple[str, ...]
    provoke: Provoke
    transient: bool = False
    """Whether it is tried again within `retry_timeout`."""

    def __str__(self) -> str:
        return self.says.replace(" ", "-")


SITUATIONS: list[Situation] = []


def situation(
    says: str, kind: FailureKind, drivers: tuple[str, ...], *, transient: bool = False
) -> Callable[[Provoke], Provoke]:
    def add(provoke: Provoke) -> Provoke:
        SITUATIONS.append(Situation(says, kind, drivers, provoke, transient))
        return provoke

    return add


# Reaching the database


@situation("the server is down", "unreachable", POSTGRES)
def down(scene: Scene) -> Target:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    return scene.target(url=make_url(scene.url).set(port=port), connect_timeout=2)


@situation("the server is starting up", "unreachable", POSTGRES)
def starting(scene: Scene) -> Target:
    server = scene.stack.enter_context(postgres_server.starting_up())
    return scene.target(url=make_url(server.url("app")), connect_timeout=2)


@situation("the server takes no more connections of this role", "unreachable", POSTGRES)
def too_many(scene: Scene) -> Target:
    url = scene.role("alter role {role} connection limit 0")
    return scene.target(url=url, connect_timeout=2)


@situation("a wrong password", "auth", POSTGRES)
def wrong_password(scene: Scene) -> Target:
    url = scene.role()
    (row,) = scene.execute("show hba_file")
    rules = Path(row[0])
    before = rules.read_text()
    rules.write_text(f"host all {url.username} all scram-sha-256\n{before}")
    scene.execute("select pg_reload_conf()")
    scene.stack.callback(rules.write_text, before)
    return scene.target(url=url.set(password=f"{PASSWORD}-wrong"))


@situation("a role that may not connect to the database", "auth", POSTGRES)
def may_not_connect(scene: Scene) -> Target:
    scene.execute(f"revoke connect on database {scene.name} from public")
    return scene.target(url=scene.role())


@situation("a database that is missing, and create=False", "unreachable", BOTH)
def missing(scene: Scene) -> Target:
    absent = f"{scene.name}_absent"
    return scene.target(url=make_url(scene.url).set(database=absent), create=False)


@situation("a database that is missing beside a copy of it", "unreachable", BOTH)
def missing_beside_a_copy(scene: Scene) -> Target:
    if scene.on_postgres:
        scene.server.create(f"{scene.name}__automigrator_snapshot_20260301T070012Z")
        scene.server.execute(f"alter database {scene.name} rename to {scene.name}_aside")
    else:
        live = scene.file()
        live.with_name(f"{live.name}.snapshot-20260301T070012Z").touch()
        live.rename(live.with_suffix(".aside"))
    return scene.target(GOOD)


@situation("a file that is missing beside its log", "unreachable", SQLITE)
def missing_beside_its_log(scene: Scene) -> Target:
    live = scene.file()
    live.with_name(f"{live.name}-wal").write_text("rows")
    live.rename(live.with_suffix(".aside"))
    return scene.target(GOOD)


@situation("a role that may not create the missing database", "auth", POSTGRES)
def may_not_create(scene: Scene) -> Target:
    return scene.target(url=scene.role().set(database=f"{scene.name}_absent"))


@situation("a role that may not read the version table", "auth", POSTGRES)
def may_not_read(scene: Scene) -> Target:
    return scene.target(GOOD, url=scene.role())


@situation("a role that may not create the version table", "auth", STATEMENTS)
def may_not_begin(scene: Scene) -> Target:
    scene.execute("drop table alembic_version, notes")
    scene.execute("revoke create on schema public from public")
    return scene.target(url=scene.role())


@situation("a folder where the file should be", "unreachable", SQLITE)
def folder(scene: Scene) -> Target:
    scene.file().unlink()
    scene.file().mkdir()
    return scene.target(GOOD, connect_timeout=2)


# What others do meanwhile


@situation("another process holds the migration lock", "lock-timeout", BOTH)
async def led_by_another(scene: Scene) -> Target:
    target = scene.target(GOOD, lock_timeout=0.5)
    await scene.stack.enter_async_context(leading(target))
    return target


@situation("a table that another session has locked", "lock-timeout", STATEMENTS, transient=True)
async def locked(scene: Scene) -> Target:
    reader = await scene.session()
    await reader.execute("begin")
    await reader.fetch("select count(*) from notes")
    return scene.target('op.drop_column("notes", "text")')


@situation("a file that another process writes to", "lock-timeout", SQLITE, transient=True)
def written_to(scene: Scene) -> Target:
    writer = sqlite3.connect(scene.file(), isolation_level=None)
    scene.stack.enter_context(closing(writer))
    writer.execute("BEGIN IMMEDIATE")
    url = make_url(scene.url).update_query_dict({"timeout": "0.2"})
    return scene.target(GOOD, url=url)


BESIDE = """
import psycopg
url = op.get_bind().engine.url.set(drivername="postgresql")
other = psycopg.connect(url.render_as_string(hide_password=False))
"""
"""Another session, opened by the revision itself."""


@situation("a deadlock", "lock-timeout", STATEMENTS, transient=True)
def deadlock(scene: Scene) -> Target:
    scene.execute("create table tags (id int)")
    return scene.target(f"""
import threading
{BESIDE}
op.execute("SET LOCAL lock_timeout = 0")
op.execute("SET LOCAL deadlock_timeout = '50ms'")
op.execute("LOCK TABLE notes")
other.execute("SET deadlock_timeout = '60s'")
other.execute("LOCK TABLE tags")
pid = other.info.backend_pid
threading.Thread(target=lambda: (other.execute("LOCK TABLE notes"), other.close())).start()
waits = f"SELECT 1 FROM pg_locks WHERE pid = {{pid}} AND NOT granted"
while not op.get_bind().exec_driver_sql(waits).all():
    pass
op.execute("LOCK TABLE tags")
""")


@situation("a serialization failure", "lock-timeout", STATEMENTS, transient=True)
def serialization(scene: Scene) -> Target:
    scene.execute(
        f"alter database {scene.name} set default_transaction_isolation = 'repeatable read'"
    )
    return scene.target(f"""
{BESIDE}
op.get_bind().exec_driver_sql("SELECT count(*) FROM notes").all()
other.execute("UPDATE notes SET text = 'changed' WHERE id = 1")
other.execute("END")
other.close()
op.execute("UPDATE notes SET text = 'migrated' WHERE id = 1")
""")


@situation("a connection that is cut inside a revision", "unreachable", STATEMENTS, transient=True)
def cut(scene: Scene) -> Target:
    return scene.target(f"""
{BESIDE}
(pid,) = op.get_bind().exec_driver_sql("SELECT pg_backend_pid()").one()
other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
other.close()
op.execute("UPDATE notes SET text = 'migrated'")
""")


@situation("a statement that takes too long", "timeout", STATEMENTS)
def too_long(scene: Scene) -> Target:
    limited = "op.execute(\"SET LOCAL statement_timeout = '100ms'\")"
    return scene.target(f'{limited}\nop.execute("SELECT pg_sleep(9)")')


@situation("a transaction that is idle for too long", "timeout", STATEMENTS)
def too_idle(scene: Scene) -> Target:
    limited = "op.execute(\"SET LOCAL idle_in_transaction_session_timeout = '50ms'\")"
    return scene.target(f'{limited}\nimport time; time.sleep(0.5)\nop.execute("SELECT 1")')


# The disk


@situation("a disk that is full", "disk-full", EVERYWHERE)
def full(scene: Scene) -> Target:
    scene.move_to(scene.disk(32 if scene.on_postgres else 8))
    large = "repeat(text, 400)" if scene.on_postgres else "hex(zeroblob(3000))"
    store = 'op.execute("ALTER TABLE big ALTER COLUMN text SET STORAGE EXTERNAL")'
    return scene.target(f"""
op.execute("CREATE TABLE big (text TEXT)")
{store if scene.on_postgres else ""}
op.execute("WITH RECURSIVE many (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM many WHERE n < 20000) "
           "INSERT INTO big SELECT {large} FROM many, notes")
""")


@situation("a file system that may only be read", "read-only", SQLITE)
def read_only_file(scene: Scene) -> Target:
    disk = scene.disk()
    scene.move_to(disk)
    target = scene.target(GOOD)
    remount(disk, "ro")
    return target


@situation("a WAL file on a file system that may only be read", "read-only", SQLITE)
def read_only_log(scene: Scene) -> Target:
    disk = scene.disk()
    scene.move_to(disk)
    scene.notes.execute("PRAGMA journal_mode = WAL")
    target = scene.target(GOOD)
    remount(disk, "ro")
    return target


@situation("a file that is opened to be read only", "read-only", SQLITE)
def opened_to_read(scene: Scene) -> Target:
    url = f"sqlite+aiosqlite:///file:{scene.file()}?mode=ro&uri=true"
    return scene.target(GOOD, url=url)


@situation("a standby", "read-only", POSTGRES)
def standby(scene: Scene) -> Target:
    both = scene.stack.enter_context(replicas())
    both.primary.create("app")
    scene.notes.url = both.primary.url("app")
    scene.notes.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
    scene.notes.execute("INSERT INTO alembic_version VALUES ('r1')")
    both.await_replay()
    return scene.target(GOOD, url=both.standby.url("app"), connect_timeout=2)


@situation("transactions that may only read", "read-only", STATEMENTS)
def read_only_transactions(scene: Scene) -> Target:
    scene.execute(f"alter database {scene.name} set default_transaction_read_only = on")
    return scene.target(GOOD)


@situation("a file that is no database", "corrupt", SQLITE)
def no_database(scene: Scene) -> Target:
    target = scene.target(GOOD)
    scene.file().write_bytes(f"{ROW} is no database".encode() * 500)
    return target


@situation("a file that was emptied beside a copy of it", "corrupt", SQLITE)
def emptied(scene: Scene) -> Target:
    target, live = scene.target(GOOD), scene.file()
    shutil.copy(live, live.with_name(f"{live.name}.snapshot-20260301T070012Z"))
    live.write_bytes(b"")
    return target


@situation("a damaged page", "corrupt", EVERYWHERE)
def damaged(scene: Scene) -> Target:
    target = scene.target("op.execute(\"UPDATE notes SET text = 'migrated'\")")
    if not scene.on_postgres:
        # the table's own page: its heads can still be read
        with closing(sqlite3.connect(scene.file())) as connection:
            ((page,),) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name='notes'")
            ((size,),) = connection.execute("PRAGMA page_size")
        with scene.file().open("r+b") as file:
            file.seek((page - 1) * size)
            file.write(b"\xff" * size)
        return target
    # a copy of the files, none of whose pages is in the server's memory yet
    copied = f"{scene.name}_copy"
    scene.server.execute(f"create database {copied} template {scene.name} strategy file_copy")
    (row,) = scene.server.execute(
        "select current_setting('data_directory') || '/base/' || d.oid || '/' || $1 "
        "from pg_database d where datname = $2",
        scene.execute("select pg_relation_filenode('notes')::text")[0][0],
        copied,
    )
    Path(row[0]).write_bytes(b"\xff" * 8192)
    url = make_url(scene.url).set(database=copied)
    return Target(url, target.config, **scene.options)


# What the revision meets in the rows and tables that are there


@situation("existing rows that are not unique", "revision", EVERYWHERE)
def not_unique(scene: Scene) -> Target:
    return scene.target('op.create_index("one_of_each", "notes", ["text"], unique=True)')


@situation("NOT NULL without a default, and rows there already", "revision", EVERYWHERE)
def not_null(scene: Scene) -> Target:
    return scene.target('op.add_column("notes", sa.Column("tag", sa.String(9), nullable=False))')


@situation("existing rows that violate a check", "revision", EVERYWHERE)
def checked(scene: Scene) -> Target:
    return scene.target("""
with op.batch_alter_table("notes") as notes:
    notes.create_check_constraint("short", sa.text("length(text) < 9"))
""")


@situation("existing rows that exclude each other", "revision", POSTGRES)
def excluding(scene: Scene) -> Target:
    return scene.target(
        'op.execute("ALTER TABLE notes ADD EXCLUDE USING btree (text WITH operator(pg_catalog.=))")'
    )


@situation("existing rows that refer to nothing", "revision", STATEMENTS)
def orphans(scene: Scene) -> Target:
    return scene.target("""
op.create_table("words", sa.Column("word", sa.String(50), primary_key=True))
op.create_foreign_key("known_words", "notes", "words", ["text"], ["word"])
""")


@situation("existing values that are not of the new type", "revision", STATEMENTS)
def not_of_the_type(scene: Scene) -> Target:
    return scene.target(
        'op.alter_column("notes", "text", type_=sa.Integer, postgresql_using="text::integer")'
    )


@situation("a table that is there already", "revision", EVERYWHERE)
def there_already(scene: Scene) -> Target:
    return scene.target('op.create_table("notes", sa.Column("id", sa.Integer))')


@situation("a table that is not there", "revision", EVERYWHERE)
def not_there(scene: Scene) -> Target:
    return scene.target(BROKEN)


@situation("a right that the revision lacks", "revision", STATEMENTS)
def right_missing(scene: Scene) -> Target:
    url = scene.role("grant all on alembic_version to {role}")
    return scene.target('op.add_column("notes", sa.Column("tag", sa.Text))', url=url)


@situation("a revision that raises", "revision", BOTH)
def raises(scene: Scene) -> Target:
    return scene.target('raise LookupError("no luck")')


@situation("a revision that ends the process", "revision", BOTH)
def exits(scene: Scene) -> Target:
    return scene.target("raise SystemExit(3)")


@situation("a revision that fails after it has committed", "revision", EVERYWHERE)
def half_way(scene: Scene) -> Target:
    return scene.target(HALF_WAY)


@situation("a revision that fails after another was committed", "revision", BOTH)
def at_a_boundary(scene: Scene) -> Target:
    env = scene.notes.config.parent / "migrations" / "env.py"
    configure = "context.configure("
    text = env.read_text().replace(configure, f"{configure}transaction_per_migration=True, ")
    env.write_text(text)
    return scene.target("pass", BROKEN)


@situation("a value that a revision's code cannot take", "revision", BOTH)
def not_a_number(scene: Scene) -> Target:
    ask = "SELECT text FROM notes WHERE id = 8"
    return scene.target(f'int(op.get_bind().exec_driver_sql("{ask}").scalar())')


# The files


@situation("a revision whose import fails", "history", BOTH)
def broken_import(scene: Scene) -> Target:
    return changed(scene, "import sqlalchemy as sa", "import no_such_module")


@situation("a down_revision that is missing", "history", BOTH)
def no_parent(scene: Scene) -> Target:
    return changed(scene, "down_revision = 'r1'", "down_revision = 'r0'")


@situation("two revisions of one id", "history", BOTH)
def twins(scene: Scene) -> Target:
    target = changed(scene, "revision = 'r2'", "revision = 'r1'")
    edit(scene, "r2", "down_revision = 'r1'", "down_revision = None")
    return target


@situation("a revision that comes after itself", "history", BOTH)
def after_itself(scene: Scene) -> Target:
    return changed(scene, "down_revision = 'r1'", "down_revision = 'r2'")


@situation("revisions in a loop", "history", BOTH)
def loop(scene: Scene) -> Target:
    target = scene.target(GOOD, GOOD)
    edit(scene, "r2", "down_revision = 'r1'", "down_revision = 'r3'")
    return target


@situation("two heads, where one is asked for", "history", BOTH)
def two_heads(scene: Scene) -> Target:
    target = scene.target(GOOD, GOOD, revision="head")
    edit(scene, "r3", "down_revision = 'r2'", "down_revision = 'r1'")
    return target


def changed(scene: Scene, old: str, new: str) -> Target:
    target = scene.target(GOOD)
    edit(scene, "r2", old, new)
    return target


def edit(scene: Scene, revision: str, old: str, new: str) -> None:
    file = versions(scene) / f"{revision}_.py"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def versions(scene: Scene) -> Path:
    return scene.notes.config.parent / "migrations" / "versions"


@situation("a database that newer code has migrated", "ahead", BOTH)
async def ahead(scene: Scene) -> Target:
    target = scene.target(GOOD)
    await Migrator(target, mode="migrate").run()
    (versions(scene) / "r2_.py").unlink()
    return target


@situation("a version row that no file knows", "ahead", BOTH)
def unknown(scene: Scene) -> Target:
    scene.notes.execute("UPDATE alembic_version SET version_num = '4f3e2d1c0b9a'")
    return scene.target(GOOD)


@situation("tables, and no version row", "unversioned", BOTH)
def unversioned(scene: Scene) -> Target:
    scene.notes.execute("DELETE FROM alembic_version")
    return scene.target(GOOD)


@situation("an env.py that raises", "env", EVERYWHERE)
def env_raises(scene: Scene) -> Target:
    return with_env(scene, 'raise RuntimeError("no settings")')


@situation("an env.py that leads to another database", "env", SQLITE)
def env_elsewhere(scene: Scene) -> Target:
    url = f"sqlite:///{scene.root / 'other.db'}"
    return with_env(
        scene,
        f'from sqlalchemy import create_engine\nwith create_engine("{url}").connect() as c:\n'
        "    context.configure(connection=c)\n    context.run_migrations()",
    )


def with_env(scene: Scene, code: str) -> Target:
    env = scene.notes.config.parent / "migrations" / "env.py"
    env.write_text(f"from alembic import context\n{code}\n")
    return scene.target(GOOD)


class Backup:
    @hookimpl
    def before_migrate(self, run: Run) -> None:
        raise RuntimeError("the backup did not work")


@situation("rows that are there already, met in a rehearsal", "revision", BOTH)
def rehearsed(scene: Scene) -> Target:
    return scene.target(UNIQUE, rehearse=True)


@situation("a rehearsal without a maintenance database to copy from", "rehearsal", POSTGRES)
def not_rehearsed(scene: Scene) -> Target:
    return scene.target(GOOD, rehearse=True, maintenance_database="no_such_database")


@situation("a plugin that raises before the migration", "hook", BOTH)
def hook_raises(scene: Scene) -> Target:
    scene.plugins.append(Backup())
    return scene.target(GOOD)

"""On SQLite a revision leaves what `alembic upgrade head` leaves in a twin of the file."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest
from support import plain_alembic

from automigrator import MigrationError, Migrator, Target

pytestmark = pytest.mark.long(
    "delete-off",
    "update-off",
    "raw-off",
    "insert-off",
    "-raw]",
    "True-update",
    "True-raw",
    "False-delete and",
    "on-aiosqlite",
    "tenant",
    "helps[aiosqlite",
    "through[aiosqlite",
    "along[aiosqlite",
    "alembic[aiosqlite",
    "in_it[aiosqlite",
    "replace-off",
)

SYNC = """
from alembic import context
from sqlalchemy import create_engine, event, pool

config = context.config
engine = create_engine(config.get_main_option("sqlalchemy.url"), poolclass=pool.NullPool<options>)
sync_engine = engine

<listeners>

with engine.connect() as connection:
    context.configure(connection=connection<configure>)
    with context.begin_transaction():
        context.run_migrations()
"""

ASYNC = """
import asyncio
from alembic import context
from sqlalchemy import event, make_url, pool
from sqlalchemy.ext.asyncio import create_async_engine

config = context.config
url = make_url(config.get_main_option("sqlalchemy.url")).set(drivername="sqlite+aiosqlite")
engine = create_async_engine(url, poolclass=pool.NullPool<options>)
sync_engine = engine.sync_engine

<listeners>

def run(connection):
    context.configure(connection=connection<configure>)
    with context.begin_transaction():
        context.run_migrations()

async def main():
    async with engine.connect() as connection:
        await connection.run_sync(run)

asyncio.run(main())
"""

KEYS_ON = """
@event.listens_for(sync_engine, "connect")
def keys_on(dbapi, record):
    dbapi.execute("PRAGMA foreign_keys=ON")
"""

RECIPE = """
@event.listens_for(sync_engine, "connect")
def no_begin(dbapi, record):
    dbapi.isolation_level = None

@event.listens_for(sync_engine, "begin")
def do_begin(connection):
    connection.exec_driver_sql("BEGIN")
"""

ATTACHED = """
@event.listens_for(sync_engine, "connect")
def attached(dbapi, record):
    dbapi.execute("ATTACH 'other.db' AS other")
"""

FAMILY = """
PRAGMA foreign_keys=ON;
CREATE TABLE parent (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE cascading (
    id INTEGER PRIMARY KEY, p INTEGER REFERENCES parent(id) ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE nulled (
    id INTEGER PRIMARY KEY, p INTEGER REFERENCES parent(id) ON DELETE SET NULL ON UPDATE CASCADE);
CREATE TABLE grandchild (
    id INTEGER PRIMARY KEY, c INTEGER REFERENCES cascading(id) ON DELETE CASCADE);
INSERT INTO parent VALUES (1, 'ada'), (2, 'bob'), (3, NULL);
INSERT INTO cascading VALUES (10, 1), (11, 2);
INSERT INTO nulled VALUES (20, 1), (21, 2);
INSERT INTO grandchild VALUES (30, 10), (31, 11);
"""

RECREATE = """
with op.batch_alter_table("parent", recreate="always") as batch:
    batch.add_column(sa.Column("more", sa.Integer))
"""


@dataclass
class Twins:
    """A project, and two files that began alike."""

    root: Path
    ours: Path
    plains: Path

    def revisions(self, *bodies: str) -> None:
        versions = self.root / "migrations" / "versions"
        for number, body in enumerate(bodies, 1):
            down = f"r{number - 1}" if number > 1 else None
            text = (
                "import sqlite3\nimport sqlalchemy as sa\nfrom alembic import op\n"
                f"revision = 'r{number}'\ndown_revision = {down!r}\n"
                f"def upgrade():\n{indent(dedent(body).strip() or 'pass', '    ')}\n"
            )
            (versions / f"r{number}.py").write_text(text)

    def environment(
        self, env: str = SYNC, listeners: str = "", options: str = "", configure: str = ""
    ) -> None:
        for name, text in (
            ("<listeners>", listeners),
            ("<options>", f", {options}" if options else ""),
            ("<configure>", f", {configure}" if configure else ""),
        ):
            env = env.replace(name, text)
        (self.root / "migrations" / "env.py").write_text(env)

    def begin_with(self, script: str) -> None:
        with closing(sqlite3.connect(self.ours)) as connection:
            connection.executescript(script)
        shutil.copy(self.ours, self.plains)

    def target(self) -> Target:
        return Target(f"sqlite:///{self.ours}", self.root / "alembic.ini", baseline="base")

    async def migrate(self) -> str:
        target = self.target()
        return (await Migrator(target, mode="migrate").run()).outcome

    def plain(self) -> subprocess.CompletedProcess[str]:
        ini = self.root / "plain.ini"
        text = (self.root / "alembic.ini").read_text()
        ini.write_text(f"{text}sqlalchemy.url = sqlite:///{self.plains}\n")
        return plain_alembic.upgraded(ini)

    async def assert_alike(self) -> None:
        """Run both, and compare every row, the schema and the version."""
        plain = self.plain()
        assert plain.returncode == 0, plain.stderr
        assert await self.migrate() == "migrated"
        assert whole(self.ours) == whole(self.plains)


def whole(file: Path) -> dict[str, list[Any]]:
    with closing(sqlite3.connect(file)) as connection:
        schema = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2")
        found: dict[str, list[Any]] = {"": schema.fetchall()}
        for kind, name, _ in found[""]:
            if kind == "table":
                rows = connection.execute(f'SELECT * FROM "{name}"').fetchall()
                found[name] = sorted(rows, key=repr)
        found["journal"] = connection.execute("PRAGMA journal_mode").fetchall()
    return found


@pytest.fixture
def twins(tmp_path: Path) -> Twins:
    (tmp_path / "migrations" / "versions").mkdir(parents=True)
    (tmp_path / "alembic.ini").write_text(
        f"[alembic]\nscript_location = {tmp_path / 'migrations'}\n"
    )
    made = Twins(tmp_path, tmp_path / "ours.db", tmp_path / "plain.db")
    made.environment()
    return made


both = pytest.mark.parametrize("env", [SYNC, ASYNC], ids=["pysqlite", "aiosqlite"])


class TestForeignKeys:
    """They are as env.py set them."""

    @pytest.mark.long("[replace", "[delete and insert", "raw-on")
    @both
    @pytest.mark.parametrize("listeners", ["", KEYS_ON], ids=["off", "on"])
    @pytest.mark.parametrize(
        "body",
        [
            'op.execute("DELETE FROM parent WHERE id = 1")',
            'op.execute("UPDATE parent SET id = 9 WHERE id = 2")',
            "op.execute(\"INSERT OR REPLACE INTO parent VALUES (2, 'new')\")",
            'op.execute("DELETE FROM parent WHERE id = 2")\n'
            "op.execute(\"INSERT INTO parent VALUES (2, 'again')\")",
            "op.get_bind().connection.cursor().execute('DELETE FROM parent WHERE id = 1')",
        ],
        ids=["delete", "update", "replace", "delete and insert", "raw"],
    )
    async def test_actions_fire_where_env_py_switched_keys_on(
        self, env: str, listeners: str, body: str, twins: Twins
    ) -> None:
        twins.begin_with(FAMILY)
        twins.environment(env, listeners)
        twins.revisions(body)

        await twins.assert_alike()

    @both
    async def test_a_violation_fails_as_in_plain_alembic(self, env: str, twins: Twins) -> None:
        twins.begin_with(FAMILY)
        twins.environment(env, KEYS_ON)
        twins.revisions('op.execute("INSERT INTO cascading VALUES (12, 99)")')
        before = whole(twins.ours)

        assert "FOREIGN KEY constraint failed" in twins.plain().stderr
        with pytest.raises(MigrationError, match="FOREIGN KEY constraint failed"):
            await twins.migrate()
        assert whole(twins.ours)["cascading"] == before["cascading"]

    @both
    async def test_a_dropped_parent_takes_its_children_along(self, env: str, twins: Twins) -> None:
        twins.begin_with(FAMILY)
        twins.environment(env, KEYS_ON)
        twins.revisions('op.drop_table("parent")')

        await twins.assert_alike()


class TestRecreating:
    """A table made anew in batch mode: the difference on purpose."""

    @pytest.mark.long("[-pysqlite", "True-aiosqlite", "True-pysqlite")
    @both
    @pytest.mark.parametrize("configure", ["", "transaction_per_migration=True"])
    async def test_no_child_is_lost_and_keys_are_on_again(
        self, env: str, configure: str, twins: Twins
    ) -> None:
        twins.begin_with(FAMILY)
        twins.environment(env, KEYS_ON, configure=configure)
        twins.revisions("op.create_table('first', sa.Column('id', sa.Integer))", RECREATE)
        before = whole(twins.ours)

        assert await twins.migrate() == "migrated"

        after = whole(twins.ours)
        for table in ("cascading", "nulled", "grandchild"):
            assert after[table] == before[table]
        assert after["parent"] == [(1, "ada", None), (2, "bob", None), (3, None, None)]
        assert after["alembic_version"] == [("r2",)]

    @both
    async def test_with_keys_off_it_is_as_in_plain_alembic(self, env: str, twins: Twins) -> None:
        twins.begin_with(FAMILY)
        twins.environment(env)
        twins.revisions(RECREATE)

        await twins.assert_alike()

    async def test_each_revision_is_told_once_as_applied(self, twins: Twins) -> None:
        twins.begin_with(FAMILY)
        twins.environment(listeners=KEYS_ON)
        twins.revisions("pass", RECREATE, "pass")
        target = twins.target()

        report = await Migrator(target, mode="migrate").run()

        assert [each.revision for each in report.targets[0].applied] == ["r1", "r2", "r3"]
        assert report.targets[0].attempts == 1

    @pytest.mark.long("aiosqlite", "True-replace", "replace-py", "delete and insert", "False-raw")
    @both
    @pytest.mark.parametrize(
        "body",
        [
            'op.execute("DELETE FROM parent WHERE id = 1")',
            'op.execute("UPDATE parent SET id = 9 WHERE id = 2")',
            "op.execute(\"INSERT OR REPLACE INTO parent (id, name) VALUES (2, 'new')\")",
            'op.execute("DELETE FROM parent WHERE id = 2")\n'
            "op.execute(\"INSERT INTO parent (id, name) VALUES (2, 'again')\")",
            "op.get_bind().connection.cursor().execute("
            "\"REPLACE INTO parent (id, name) VALUES (2, 'new')\")",
        ],
        ids=["delete", "update", "replace", "delete and insert", "raw"],
    )
    @pytest.mark.parametrize("first", [True, False])
    async def test_actions_beside_it_fire_or_the_run_fails_with_nothing_changed(
        self, env: str, body: str, first: bool, twins: Twins
    ) -> None:
        """Before Python 3.12 keys cannot be on and off in one transaction."""
        twins.begin_with(FAMILY)
        twins.environment(env, KEYS_ON)
        twins.revisions(*((body, RECREATE) if first else (RECREATE, body)))
        before = whole(twins.ours)

        if sys.version_info < (3, 12):
            with pytest.raises(MigrationError, match=r"this Python cannot do|would be violated"):
                await twins.migrate()
            after = whole(twins.ours)
            assert {t: after[t] for t in before} == before | {"": after[""]}
            return
        assert await twins.migrate() == "migrated"
        # plain Alembic, with the rows that making the table anew would have cost put back
        twins.revisions(body, "pass")
        assert twins.plain().returncode == 0
        for table in ("cascading", "nulled", "grandchild"):
            assert whole(twins.ours)[table] == whole(twins.plains)[table]

    async def test_names_beyond_ascii_are_compared_as_they_are_written(self, twins: Twins) -> None:
        twins.begin_with(
            FAMILY + 'CREATE TABLE "ÄRZTE" (id INTEGER PRIMARY KEY);'
            'CREATE TABLE visit (a INTEGER REFERENCES "ÄRZTE" ON DELETE CASCADE);'
            'INSERT INTO "ÄRZTE" VALUES (1); INSERT INTO visit VALUES (1)'
        )
        twins.environment(listeners=KEYS_ON)
        twins.revisions("op.execute('REPLACE INTO \"ÄRZTE\" VALUES (1)')", RECREATE)

        if sys.version_info < (3, 12):
            with pytest.raises(MigrationError, match="rows of ärzte change"):
                await twins.migrate()
            assert whole(twins.ours)["visit"] == [(1,)]
            return
        assert await twins.migrate() == "migrated"
        assert whole(twins.ours)["visit"] == []

    async def test_inserts_and_other_columns_are_no_hindrance(self, twins: Twins) -> None:
        twins.begin_with(FAMILY)
        twins.environment(listeners=KEYS_ON)
        twins.revisions(
            "op.execute(\"INSERT INTO parent VALUES (4, 'dan')\")\n"
            "op.execute(\"UPDATE parent SET name = 'eve' WHERE id = 1\")\n"
            'op.execute("INSERT INTO cascading VALUES (14, 4)")\n'
            'op.execute("DELETE FROM grandchild")',
            RECREATE,
        )

        assert await twins.migrate() == "migrated"
        assert whole(twins.ours)["parent"][0] == (1, "eve", None)
        assert whole(twins.ours)["cascading"] == [(10, 1), (11, 2), (14, 4)]

    async def test_a_copy_whose_keys_differ_leaves_no_orphans(self, twins: Twins) -> None:
        twins.begin_with(
            "CREATE TABLE parent (id TEXT PRIMARY KEY);"
            "CREATE TABLE child (p TEXT REFERENCES parent(id) ON DELETE CASCADE);"
            "INSERT INTO parent VALUES ('x'); INSERT INTO child VALUES ('x')"
        )
        twins.environment(listeners=KEYS_ON)
        twins.revisions(
            """
            with op.batch_alter_table("parent", recreate="always") as batch:
                batch.alter_column("id", type_=sa.Integer, existing_type=sa.Text)
            """
        )
        before = whole(twins.ours)

        with pytest.raises(MigrationError, match="would be violated|mismatch"):
            await twins.migrate()
        assert whole(twins.ours)["child"] == before["child"]
        assert whole(twins.ours)["parent"] == before["parent"]


class TestTransactions:
    """They are real, and begun by nobody twice."""

    HALF = """
    op.execute("CREATE TABLE made (x)")
    op.execute("INSERT INTO made VALUES (1)")
    """

    @pytest.mark.long("[pysqlite")
    @both
    async def test_a_recipe_that_begins_for_real_is_kept(self, env: str, twins: Twins) -> None:
        twins.environment(env, RECIPE, configure="transactional_ddl=True")
        twins.revisions(self.HALF, "op.execute('INSERT INTO made VALUES (2)')")

        await twins.assert_alike()

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="a driver's option from then on")
    @pytest.mark.parametrize("autocommit", [False, True])
    async def test_the_drivers_own_autocommit_is_kept(self, autocommit: bool, twins: Twins) -> None:
        twins.environment(options=f'connect_args={{"autocommit": {autocommit}}}')
        twins.revisions(self.HALF, "op.execute('INSERT INTO made VALUES (2)')")

        await twins.assert_alike()

    @both
    async def test_an_engine_in_autocommit_is_left_in_it(self, env: str, twins: Twins) -> None:
        twins.environment(env, options='isolation_level="AUTOCOMMIT"')
        twins.revisions(self.HALF, 'op.execute("VACUUM")', 'op.execute("PRAGMA journal_mode=WAL")')

        await twins.assert_alike()

    @pytest.mark.long("[-aiosqlite", "listeners1-pysqlite")
    @both
    @pytest.mark.parametrize("listeners", ["", RECIPE])
    async def test_a_failed_revision_leaves_no_half(
        self, env: str, listeners: str, twins: Twins
    ) -> None:
        twins.environment(env, listeners, configure="transactional_ddl=True")
        twins.revisions(self.HALF + "\n    op.execute('INSERT INTO nowhere VALUES (2)')")

        with pytest.raises(MigrationError, match="no such table"):
            await twins.migrate()
        assert "made" not in whole(twins.ours)

    @pytest.mark.long("executescript")
    @pytest.mark.parametrize(
        "commit",
        [
            "op.get_bind().connection.executescript('CREATE TABLE script (x)')",
            "op.get_bind().connection.commit()",
        ],
    )
    async def test_after_a_commit_of_its_own_the_revision_is_in_a_transaction_again(
        self, commit: str, twins: Twins
    ) -> None:
        twins.revisions(self.HALF + f"\n    {commit}\n    op.execute('CREATE TABLE more (x)')")
        await twins.assert_alike()

        twins.revisions("pass", f"{commit}\nop.execute('CREATE TABLE half (x)')\n1 / 0")
        if "script" in commit:
            twins.begin_with("DROP TABLE script")
        with pytest.raises(MigrationError, match="division by zero"):
            await twins.migrate()
        assert "half" not in whole(twins.ours)

    async def test_a_pragma_after_a_commit_of_its_own_is_as_in_plain_alembic(
        self, twins: Twins
    ) -> None:
        twins.revisions(
            self.HALF + "\n    op.get_bind().connection.commit()\n"
            "    op.execute('PRAGMA journal_mode=WAL')\n    op.execute('CREATE TABLE more (x)')"
        )

        await twins.assert_alike()


class TestOutsideOnly:
    """What SQLite refuses or passes over inside a transaction."""

    @pytest.mark.long("journal_mode(truncate", "wal_checkpoint", "DETACH")
    @pytest.mark.parametrize("raw", [False, True], ids=["op", "raw"])
    @pytest.mark.parametrize(
        "statement",
        [
            "PRAGMA journal_mode=WAL",
            "PRAGMA main.journal_mode(truncate)",
            "/* first */ pragma Foreign_Keys = 'yes'",
            "PRAGMA synchronous=OFF",
            "PRAGMA wal_checkpoint",
            "VACUUM",
            "BEGIN",
            "DETACH other",
        ],
    )
    async def test_it_fails_and_names_the_remedy(
        self, statement: str, raw: bool, twins: Twins, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(twins.root)
        run = "op.get_bind().connection.cursor().execute" if raw else "op.execute"
        twins.environment(listeners=ATTACHED)
        twins.revisions(f'{run}("{statement}")')

        with pytest.raises(MigrationError, match="autocommit_block") as raised:
            await twins.migrate()

        assert raised.value.report.targets[0].failures[-1].state == "clean"
        assert whole(twins.ours)["journal"] == [("delete",)]

    @both
    async def test_the_remedy_helps(self, env: str, twins: Twins) -> None:
        twins.environment(env)
        twins.revisions(
            "op.execute('CREATE TABLE t (x)')\n"
            "with op.get_context().autocommit_block():\n"
            "    op.execute('PRAGMA journal_mode=WAL')\n    op.execute('VACUUM')\n"
            "op.execute('INSERT INTO t VALUES (1)')"
        )

        await twins.assert_alike()

    @both
    async def test_a_pragma_that_changes_nothing_is_let_through(
        self, env: str, twins: Twins
    ) -> None:
        twins.environment(env)
        twins.revisions(
            "op.execute('PRAGMA foreign_keys=OFF')\nop.execute('PRAGMA user_version=7')\n"
            "op.execute('CREATE TABLE t (x)')\nop.execute('PRAGMA journal_mode')"
        )

        await twins.assert_alike()


class TestDriver:
    """Its own calls, in a revision."""

    @pytest.mark.long("body1", "body2", "body6")
    @pytest.mark.parametrize(
        "body",
        [
            "raw.row_factory = sqlite3.Row\n"
            "assert raw.execute('SELECT 5 AS five').fetchone()['five'] == 5\n"
            "raw.row_factory = None",
            "raw.create_function('twice', 1, lambda x: 2 * x)\n"
            "op.execute('CREATE TABLE t AS SELECT twice(21) AS x')",
            "raw.create_collation('backwards', lambda a, b: (a < b) - (a > b))\n"
            "op.execute('CREATE TABLE t (x)')\n"
            "op.execute(\"INSERT INTO t VALUES ('a'), ('b')\")\n"
            "op.execute('CREATE TABLE u AS SELECT x FROM t ORDER BY x COLLATE backwards LIMIT 1')",
            "raw.execute('CREATE TABLE t (x)')\n"
            "raw.executemany('INSERT INTO t VALUES (?)', [(1,)])",
            "raw.executescript('CREATE TABLE t (x); INSERT INTO t VALUES (7);')",
            "raw.executescript('BEGIN; CREATE TABLE t (x); INSERT INTO t VALUES (7); COMMIT;')",
            "cursor = op.get_bind().connection.cursor()\n"
            "cursor.execute('CREATE TABLE t (x)')\ncursor.execute('INSERT INTO t VALUES (1)')",
        ],
    )
    async def test_they_work_as_in_plain_alembic(self, body: str, twins: Twins) -> None:
        twins.revisions(f"raw = op.get_bind().connection.driver_connection\n{body}", "pass")

        await twins.assert_alike()

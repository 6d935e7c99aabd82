"""What a failure tells is observed on the connection: real commits, and the first error."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from support.alembic_projects import heads, linear, revision, tables, with_sync_driver

from automigrator import Failure, MigrationError, Migrator, Target

pytestmark = pytest.mark.long(
    "given",
    "per_migration]",
    "[postgresql-a ",
    "[postgresql-the driver",
    "[postgresql-SQL-",
    "[postgresql-SQL that begins again-own-async",
    "[postgresql-autocommit_block-own-async",
    "commit[sqlite-a comment-async",
    "commit[sqlite-a string-async",
    "commit[sqlite-a session-async",
    "commit[sqlite-a table-async",
    "[sqlite-the bind-own-async",
    "[sqlite-the driver-own-async",
    "[sqlite-SQL-own-async",
    "[sqlite-a commit, then more-own-async",
    "next statement-async",
    "clean_up[postgresql-swallows",
    "version row-async",
    "SQL that begins again",
    "the bind-own-async",
    "postgresql-autocommit_block",
    "clean_up[postgresql-async",
    "the version row",
    "savepoint_undid[postgresql",
    "seen[per_migration",
    "fails_hides_is_told[postgresql",
)

Make = Callable[..., Target]

FAILS = 'op.execute("SELECT * FROM absent")'

COMMITS = {
    "autocommit_block": "with op.get_context().autocommit_block(): op.execute('SELECT 1')",
    "the bind": "op.get_bind().commit()",
    "the driver": "op.get_bind().connection.commit()",
    "SQL": "op.execute('COMMIT')",
    "SQL that begins again": "op.execute('COMMIT'); op.execute('BEGIN')",
    "a commit, then more": "op.get_bind().commit()\nop.execute('CREATE TABLE more (id INTEGER)')",
}
COMMITS_NOTHING = {
    "a comment": "# COMMIT, autocommit_block(), isolation_level",
    "a string": "'''This must not commit; executescript and autocommit neither.'''",
    "a session": "from sqlalchemy.orm import Session\nSession(op.get_bind()).commit()",
    "a savepoint": "with op.get_bind().begin_nested(): op.execute('SELECT 1')",
    "a table": "op.create_table('commit', sa.Column('autocommit', sa.Integer))",
}


def torn_by(body: str) -> Callable[[Path], None]:
    made = 'op.create_table("half", sa.Column("id", sa.Integer))'

    def revisions(folder: Path) -> None:
        revision(folder, "r1", None, upgrade='op.create_table("a", sa.Column("id", sa.Integer))')
        revision(folder, "r2", "r1", upgrade=f"{made}\n{body}\n{FAILS}")

    return revisions


async def failure_of(target: Target) -> Failure:
    with pytest.raises(MigrationError) as caught:
        await Migrator(target, mode="migrate").run()
    return caught.value.report.targets[0].failures[-1]


@pytest.mark.long("[postgresql")
@pytest.mark.parametrize("kind", ["generic", "async", "per_migration"])
@pytest.mark.parametrize("drive", ["own", "given"])
@pytest.mark.parametrize("body", COMMITS.values(), ids=COMMITS)
async def test_a_commit_in_the_middle_of_a_revision_is_seen(
    body: str, kind: str, drive: str, make_target: Make, database_url: str
) -> None:
    failure = await failure_of(make_target(torn_by(body), kind=kind, drive=drive))

    assert "half" in tables(database_url)
    assert (failure.state, failure.revision) == ("partial-within-revision", "r2")


STATEMENTS = {
    "nothing": ([], "partial-at-boundary"),
    "a look": (["SELECT * FROM a", "PRAGMA table_info(a)"], "partial-at-boundary"),
    "a row": (["INSERT INTO a VALUES (1)"], "partial-within-revision"),
    "a table": (["CREATE TABLE half (id INTEGER)"], "partial-within-revision"),
    "a number in the header": (["PRAGMA user_version = 3"], "partial-within-revision"),
}
"""Before a statement that fails, each of them committed by itself."""


@pytest.mark.parametrize("kind", ["generic", "async"])
@pytest.mark.parametrize(("statements", "state"), STATEMENTS.values(), ids=STATEMENTS)
async def test_a_revision_that_commits_each_statement_is_torn_by_what_it_has_written(
    statements: list[str], state: str, kind: str, make_target: Make, sqlite_url: str
) -> None:
    target = make_target(each_committed(*statements), kind=kind, database=sqlite_url)
    assert (await failure_of(target)).state == state


async def test_rows_that_a_statement_keeps_although_it_fails_tear_its_revision(
    make_target: Make, sqlite_url: str
) -> None:
    keeps = each_committed("INSERT OR FAIL INTO a VALUES (2), (NULL)", fails="SELECT 1")
    assert (
        await failure_of(make_target(keeps, database=sqlite_url))
    ).state == "partial-within-revision"


def each_committed(*statements: str, fails: str = "SELECT * FROM absent") -> Callable[[Path], None]:
    sent = "\n".join(f"    op.execute({each!r})" for each in (*statements, fails))

    def revisions(folder: Path) -> None:
        made = 'op.create_table("a", sa.Column("id", sa.Integer, nullable=False))'
        revision(folder, "r1", None, upgrade=made)
        block = f"with op.get_context().autocommit_block():\n{sent}"
        revision(folder, "r2", "r1", upgrade=block)

    return revisions


@pytest.mark.long("a string", "savepoint-async")
@pytest.mark.parametrize("kind", ["generic", "async", "per_migration"])
@pytest.mark.parametrize("body", COMMITS_NOTHING.values(), ids=COMMITS_NOTHING)
async def test_a_word_is_no_commit(
    body: str, kind: str, make_target: Make, database_url: str
) -> None:
    failure = await failure_of(make_target(torn_by(body), kind=kind))

    kept = kind == "per_migration"
    assert tables(database_url) <= ({"a", "alembic_version"} if kept else {"alembic_version"})
    assert failure.state == ("partial-at-boundary" if kept else "clean")


@pytest.mark.parametrize(
    "body",
    [
        "op.get_bind().connection.driver_connection.executescript('CREATE TABLE b (id INTEGER)')",
        "op.get_bind().connection.driver_connection.commit()",
    ],
)
async def test_a_commit_of_the_driver_itself_is_seen(
    body: str, make_target: Make, tmp_path: Path
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'a.db'}"

    failure = await failure_of(make_target(torn_by(body), kind="generic", database=url))

    assert "half" in tables(url)
    assert failure.state == "partial-within-revision"


async def test_a_commit_on_a_second_connection_is_seen(
    make_target: Make, postgres_url: str
) -> None:
    body = """
with op.get_bind().engine.begin() as other:
    other.exec_driver_sql("CREATE TABLE beside (id INTEGER)")
"""
    failure = await failure_of(make_target(torn_by(body), kind="generic", database=postgres_url))

    assert tables(postgres_url) == {"beside"}
    assert failure.state == "partial-within-revision"


ENGINE = """
from sqlalchemy import NullPool, create_engine
engine = create_engine({url!r}, poolclass=NullPool{more})
"""
MAKES = 'other.exec_driver_sql("CREATE TABLE beside (id INTEGER)")'
AN_ENGINE_OF_ITS_OWN = {
    "begin": ("", f"with engine.begin() as other: {MAKES}"),
    "commit": ("", f"with engine.connect() as other:\n    {MAKES}\n    other.commit()"),
    "a session": (
        "",
        "from sqlalchemy.orm import Session\n"
        f"with Session(engine) as s:\n    other = s.connection()\n    {MAKES}\n    s.commit()",
    ),
    "autocommit": (
        ", isolation_level='AUTOCOMMIT'",
        f"with engine.connect() as other: {MAKES}",
    ),
    "autocommit of a connection": (
        "",
        f"with engine.connect().execution_options(isolation_level='AUTOCOMMIT') as other: {MAKES}",
    ),
    "never closed": (", isolation_level='AUTOCOMMIT'", f"other = engine.connect()\n{MAKES}"),
    "in a thread": (
        "",
        f"""from threading import Thread
def work():
    with engine.begin() as other: {MAKES}
thread = Thread(target=work)
thread.start()
thread.join()""",
    ),
}


@pytest.mark.long(
    "-async]",
    "[commit",
    "session-generic",
    "connection-generic",
    "closed-generic",
    "autocommit-generic",
    "in a thread",
)
@pytest.mark.parametrize("kind", ["generic", "async"])
@pytest.mark.parametrize(("more", "body"), AN_ENGINE_OF_ITS_OWN.values(), ids=AN_ENGINE_OF_ITS_OWN)
async def test_a_commit_by_an_engine_that_the_revision_makes_is_seen(
    more: str, body: str, kind: str, make_target: Make, postgres_url: str
) -> None:
    made = ENGINE.format(url=with_sync_driver(postgres_url), more=more)

    failure = await failure_of(make_target(torn_by(made + body), kind=kind, database=postgres_url))

    assert tables(postgres_url) == {"beside"}
    assert failure.state == "partial-within-revision"


@pytest.mark.long
async def test_a_commit_by_an_async_engine_that_the_revision_makes_is_seen(
    make_target: Make, postgres_url: str
) -> None:
    body = f"""
from sqlalchemy.ext.asyncio import create_async_engine
async def work(_):
    engine = create_async_engine({postgres_url!r})
    async with engine.begin() as other:
        await other.exec_driver_sql("CREATE TABLE beside (id INTEGER)")
    await engine.dispose()
op.run_async(work)
"""
    failure = await failure_of(make_target(torn_by(body), database=postgres_url))

    assert tables(postgres_url) == {"beside"}
    assert failure.state == "partial-within-revision"


@pytest.mark.long("rolled back")
@pytest.mark.parametrize("elsewhere", [True, False], ids=["elsewhere", "rolled back"])
async def test_another_database_and_what_is_rolled_back_do_not_count(
    elsewhere: bool, make_target: Make, postgres_url: str, empty_databases: Any
) -> None:
    with empty_databases.lent() as other_url:
        url = with_sync_driver(other_url if elsewhere else postgres_url)
        made = ENGINE.format(url=url, more="")
        end = "commit" if elsewhere else "rollback"
        body = f"with engine.connect() as other:\n    {MAKES}\n    other.{end}()"

        failure = await failure_of(
            make_target(torn_by(made + body), kind="generic", database=postgres_url)
        )

        assert tables(other_url) == ({"beside"} if elsewhere else set())
    assert tables(postgres_url) == set()
    assert failure.state == "clean"


def with_a_driver_that_commits_by_itself(folder: Path) -> None:
    env = folder / "migrations" / "env.py"
    text = env.read_text("utf-8")
    own = 'poolclass=pool.NullPool, connect_args={"autocommit": True}'
    assert "poolclass=pool.NullPool" in text
    env.write_text(text.replace("poolclass=pool.NullPool", own), "utf-8")


async def test_a_driver_that_commits_by_itself_is_seen(
    make_target: Make, postgres_url: str, tmp_path: Path
) -> None:
    target = make_target(torn_by("pass"), kind="generic", database=postgres_url)
    with_a_driver_that_commits_by_itself(tmp_path)

    failure = await failure_of(target)

    assert "half" in tables(postgres_url)
    assert failure.state == "partial-within-revision"


async def test_a_driver_that_commits_by_itself_is_stopped_once_the_lock_is_lost(
    make_target: Make, postgres_url: str, tmp_path: Path
) -> None:
    loses_the_lock = """
op.execute(
    "SELECT pg_terminate_backend(pid) FROM (SELECT DISTINCT pid FROM pg_locks "
    "WHERE locktype = 'advisory' AND granted AND pid <> pg_backend_pid()) holders"
)
op.execute("CREATE TABLE late (id int)")
"""
    target = make_target(torn_by(loses_the_lock), kind="generic", database=postgres_url)
    with_a_driver_that_commits_by_itself(tmp_path)

    failure = await failure_of(target)

    assert "late" not in tables(postgres_url)
    assert failure.kind == "lock-timeout"


async def test_a_commit_that_is_refused_commits_nothing(
    make_target: Make, postgres_url: str
) -> None:
    deferred = """
op.execute("CREATE TABLE parent (id int primary key)")
op.execute("CREATE TABLE child (id int references parent deferrable initially deferred)")
op.execute("INSERT INTO child VALUES (1)")
op.get_bind().commit()
"""
    failure = await failure_of(
        make_target(torn_by(deferred), kind="generic", database=postgres_url)
    )

    assert tables(postgres_url) == set()
    assert failure.state == "clean"


@pytest.mark.long("[postgresql")
async def test_a_commit_that_a_listener_refuses_commits_nothing(
    make_target: Make, database_url: str
) -> None:
    refused = """
from sqlalchemy import event
def refuse(connection):
    raise ValueError("not now")
op.create_table("half", sa.Column("id", sa.Integer))
event.listen(op.get_bind(), "commit", refuse, once=True)
"""

    def revisions(folder: Path) -> None:
        revision(folder, "r1", None, upgrade='op.create_table("a", sa.Column("id", sa.Integer))')
        revision(folder, "r2", "r1", upgrade=refused)

    failure = await failure_of(make_target(revisions, kind="per_migration"))

    assert "half" not in tables(database_url)
    assert heads(database_url) == {"r1"}
    assert (failure.state, failure.applied) == ("partial-at-boundary", ("r1",))
    assert "not now" in failure.message


@pytest.fixture
def owners(make_target: Make, postgres_url: str, postgres_server: Any, tmp_path: Path) -> Any:
    """Makes a Target of a role that cannot read what env.py's own role makes."""
    role = f"reader_{uuid.uuid4().hex[:8]}"
    postgres_server.execute(f"create role {role} login")

    def make(kind: str, revisions: Callable[[Path], object]) -> Target:
        url = make_url(postgres_url).set(username=role)
        target = make_target(revisions, kind=kind, database=url)
        env = tmp_path / "migrations" / "env.py"
        own = f"""
from sqlalchemy import create_engine
def engine_from_config(*_, **__):
    return create_engine({with_sync_driver(postgres_url)!r}, poolclass=pool.NullPool)
"""
        text = env.read_text("utf-8")
        env.write_text(
            text.replace("def run_migrations_online", f"{own}\ndef run_migrations_online")
        )
        assert own in env.read_text("utf-8")
        return target

    yield make
    with suppress(Exception):
        postgres_server.execute(f"drop role {role}")


@pytest.mark.long
async def test_what_was_committed_is_told_where_it_cannot_be_read_back(
    owners: Callable[..., Target], postgres_url: str
) -> None:
    failure = await failure_of(owners("generic", lambda folder: linear(folder, 2)))

    assert heads(postgres_url) == {"r2"}
    assert (failure.kind, failure.state) == ("auth", "unknown")
    assert failure.applied == ("r1", "r2")
    assert "committed r1, r2" in failure.message and "GRANT SELECT" in failure.advice


@pytest.mark.parametrize(("kind", "kept"), [("generic", ()), ("per_migration", ("r1",))])
async def test_a_failure_that_cannot_be_read_back_tells_what_was_seen(
    kind: str, kept: tuple[str, ...], owners: Callable[..., Target], postgres_url: str
) -> None:
    failure = await failure_of(owners(kind, torn_by("pass")))

    assert heads(postgres_url) == set(kept)
    assert failure.applied == kept
    assert failure.state == ("unknown" if kept else "clean")


async def test_a_commit_in_the_middle_is_told_where_nothing_can_be_read_back(
    owners: Callable[..., Target], postgres_url: str
) -> None:
    failure = await failure_of(owners("generic", torn_by("op.get_bind().commit()")))

    assert "half" in tables(postgres_url)
    assert failure.state == "partial-within-revision"


def batch(folder: Path) -> None:
    users = 'op.create_table("users", sa.Column("id", sa.Integer), sa.Column("n", sa.Integer))'
    fill = 'op.execute("INSERT INTO users VALUES (1, NULL)")'
    revision(folder, "r1", None, upgrade=f"{users}\n{fill}")
    change = """
with op.batch_alter_table("users", recreate="always") as batch:
    batch.alter_column("n", existing_type=sa.Integer, nullable=False)
"""
    revision(folder, "r2", "r1", upgrade=change)


@pytest.mark.long("[postgresql", "sqlite-async")
@pytest.mark.parametrize("kind", ["generic", "async", "swallows_errors"])
async def test_the_first_error_is_told_and_not_the_one_of_the_clean_up(
    kind: str, make_target: Make, database_url: str
) -> None:
    failure = await failure_of(make_target(batch, kind=kind))

    assert "InFailedSqlTransaction" not in failure.message
    assert "null" in failure.message.lower() or "NOT NULL" in failure.message
    assert failure.statement is not None and failure.statement.startswith("INSERT INTO")
    assert (failure.kind, failure.revision) == ("revision", "r2")
    assert "value" in failure.advice


GONE_ON = {
    "the next statement": "try: op.execute('SELECT * FROM absent')\nexcept Exception: pass\n"
    "op.execute('SELECT 1')",
    "the version row": "try: op.execute('SELECT * FROM absent')\nexcept Exception: pass",
}


@pytest.mark.parametrize("kind", ["generic", "async"])
@pytest.mark.parametrize("body", GONE_ON.values(), ids=GONE_ON)
async def test_an_error_that_a_revision_swallowed_is_told_where_it_is_the_cause(
    body: str, kind: str, make_target: Make, postgres_url: str
) -> None:
    target = make_target(
        lambda folder: revision(folder, "r1", None, upgrade=body), kind=kind, database=postgres_url
    )

    failure = await failure_of(target)

    assert "absent" in failure.message
    assert failure.statement == "SELECT * FROM absent"


HIDDEN = """
try:
    with op.get_bind().begin_nested():
        op.execute("SELECT no_such_function(1)")
except Exception:
    op.execute("DROP TABLE not_there")
    raise
"""


async def test_what_a_clean_up_that_fails_hides_is_told(
    make_target: Make, database_url: str
) -> None:
    failure = await failure_of(
        make_target(lambda folder: revision(folder, "r1", None, upgrade=HIDDEN))
    )

    assert "no_such_function" in failure.message
    assert failure.statement == "SELECT no_such_function(1)"
    assert failure.blames == "surroundings"


@pytest.mark.long("[postgresql")
async def test_an_error_that_a_savepoint_undid_is_not_told(
    make_target: Make, database_url: str
) -> None:
    body = """
try:
    with op.get_bind().begin_nested():
        op.execute("SELECT * FROM absent")
except Exception:
    pass
op.execute("SELECT * FROM missing")
"""
    target = make_target(lambda folder: revision(folder, "r1", None, upgrade=body))

    failure = await failure_of(target)

    assert failure.statement == "SELECT * FROM missing"


async def test_a_full_disk_is_told_and_not_the_table_that_its_rollback_took(
    make_target: Make, tmp_path: Path
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'a.db'}"

    def revisions(folder: Path) -> None:
        batch(folder)
        full = """
op.execute("UPDATE users SET n = 1")
for _ in range(11):
    op.execute("INSERT INTO users SELECT * FROM users")
conn = op.get_bind().connection.driver_connection
((pages,),) = conn.execute("PRAGMA page_count").fetchall()
conn.execute(f"PRAGMA max_page_count={pages + 3}")
"""
        text = (folder / "r2_.py").read_text("utf-8")
        body = "".join(f"    {line}\n" for line in full.strip().splitlines())
        (folder / "r2_.py").write_text(
            text.replace("def upgrade() -> None:\n", f"def upgrade() -> None:\n{body}"), "utf-8"
        )

    failure = await failure_of(make_target(revisions, kind="generic", database=url))

    assert (failure.kind, failure.state) == ("disk-full", "clean")
    assert heads(url) == set()

"""What env.py files, engines, sessions and revisions are made of: the grid's axes.

Each value is code. A blank of one axis is filled by the value of another; see `pairs.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

BOTH = ("sqlite", "postgresql")
SQLITE, POSTGRESQL = BOTH[:1], BOTH[1:]


@dataclass(frozen=True, slots=True)
class Shape:
    """How an env.py comes to its connection; `{engine}` is the call that makes its engine."""

    code: str
    is_async: bool = False


SYNC_ONLINE = """
with {engine}.connect() as connection:
    run(connection)
"""
ASYNC = """
async def go():
    engine = {engine}
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()

"""

SHAPES = {
    "sync": Shape(SYNC_ONLINE),
    "sync, pooled at import": Shape(
        "engine = {engine}\nwith engine.connect() as connection:\n    run(connection)\n"
    ),
    "sync, begun outside": Shape("with {engine}.begin() as connection:\n    run(connection)\n"),
    "sync, shared or own": Shape("""
connection = config.attributes.get("connection", None)
if connection is not None:
    run(connection)
else:
    with {engine}.connect() as connection:
        run(connection)
"""),
    "sync, in a thread": Shape("""
def work():
    with {engine}.connect() as connection:
        run(connection)

failed = []
def kept():
    try:
        work()
    except BaseException as error:
        failed.append(error)

import contextvars
thread = threading.Thread(target=contextvars.copy_context().run, args=(kept,))
thread.start()
thread.join()
if failed:
    raise failed[0]
"""),
    "async": Shape(ASYNC + "asyncio.run(go())\n", is_async=True),
    "async, not disposed": Shape(
        ASYNC.replace("    await engine.dispose()\n", "") + "asyncio.run(go())\n", is_async=True
    ),
    "async, or a thread where a loop runs": Shape(
        ASYNC
        + """
try:
    asyncio.get_running_loop()
except RuntimeError:
    asyncio.run(go())
else:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, go()).result()
""",
        is_async=True,
    ),
    "async, on a loop of its own": Shape(
        ASYNC
        + """
loop = asyncio.new_event_loop()
try:
    loop.run_until_complete(go())
finally:
    loop.close()
""",
        is_async=True,
    ),
    "async, shared or own": Shape(
        ASYNC
        + """
connection = config.attributes.get("connection", None)
if connection is None:
    asyncio.run(go())
else:
    run(connection)
""",
        is_async=True,
    ),
}


@dataclass(frozen=True, slots=True)
class Option:
    """What an engine is made with, and what is done to it; `on` names the databases it is for."""

    arguments: str = ""
    listeners: str = ""
    on: tuple[str, ...] = BOTH
    only: str = ""
    """`sync` or `async`, where the other kind of engine does not take it."""


OPTIONS = {
    "plain": Option(),
    "NullPool": Option("poolclass=pool.NullPool"),
    "AUTOCOMMIT": Option('isolation_level="AUTOCOMMIT"', on=POSTGRESQL),
    "SERIALIZABLE": Option('isolation_level="SERIALIZABLE"'),
    "translated": Option('execution_options={"schema_translate_map": {"theirs": None}}'),
    "hidden parameters": Option("hide_parameters=True, echo=False"),
    "a statement listener": Option(
        listeners="""
@event.listens_for(sync, "before_cursor_execute", retval=True)
def rewritten(conn, cursor, statement, parameters, context, executemany):
    return statement.replace("REWRITE", "rewritten"), parameters
"""
    ),
    "a function": Option(
        listeners="""
@event.listens_for(sync, "connect")
def added(dbapi, record):
    dbapi.create_function("shout", 1, lambda text: text.upper())
""",
        on=SQLITE,
    ),
    "foreign keys": Option(
        listeners="""
@event.listens_for(sync, "connect")
def enforced(dbapi, record):
    cursor = dbapi.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()
""",
        on=SQLITE,
    ),
    "a time zone": Option(
        'connect_args={"server_settings": {"timezone": "America/New_York"}}',
        on=POSTGRESQL,
        only="async",
    ),
    "a time zone, sync": Option(
        'connect_args={"options": "-c timezone=America/New_York"}', on=POSTGRESQL, only="sync"
    ),
    "a name": Option('connect_args={"application_name": "migrations"}', on=POSTGRESQL, only="sync"),
}

SESSIONS = {
    "nothing": ("", BOTH),
    "a setting": (
        "connection.execute(text(\"SET app.tenant = 'a'\"))\nconnection.commit()",
        POSTGRESQL,
    ),
    "a setting, not committed": ("connection.execute(text(\"SET app.tenant = 'a'\"))", POSTGRESQL),
    "a time zone": (
        "connection.execute(text(\"SET timezone = 'Asia/Tokyo'\"))\nconnection.commit()",
        POSTGRESQL,
    ),
    "a search path": (
        "connection.execute(text('CREATE SCHEMA IF NOT EXISTS other'))\n"
        "connection.execute(text('SET search_path TO public, other'))\nconnection.commit()",
        POSTGRESQL,
    ),
    "a date style": (
        "connection.execute(text(\"SET datestyle = 'SQL, DMY'\"))\nconnection.commit()",
        POSTGRESQL,
    ),
    "a temporary table": (
        "connection.execute(text('CREATE TEMP TABLE given (id int)'))\n"
        "connection.execute(text('INSERT INTO given VALUES (5)'))\nconnection.commit()",
        BOTH,
    ),
    "a pragma": (
        "connection.execute(text('PRAGMA recursive_triggers=ON'))\nconnection.commit()",
        SQLITE,
    ),
    "foreign keys": (
        "connection.exec_driver_sql('PRAGMA foreign_keys=ON')\nconnection.commit()",
        SQLITE,
    ),
}

CONFIGURE = {
    "": "",
    "transaction per migration": ", transaction_per_migration=True",
    "batch": ", render_as_batch=True",
    "a version table": ', version_table="versions_of_ours"',
}

DRIVERS = {
    ("sqlite", "sync"): ("sqlite", "sqlite+pysqlite"),
    ("sqlite", "async"): ("sqlite+aiosqlite",),
    ("postgresql", "sync"): ("postgresql", "postgresql+psycopg"),
    ("postgresql", "async"): (
        "postgresql+asyncpg",
        "postgresql+psycopg_async",
        "postgresql+psycopg",
    ),
}
"""What the ini's URL names."""

GIVEN = ("async text", "sync text", "engine")
"""How the target is given: a URL with an async driver, one without a driver, an engine."""


@dataclass(frozen=True, slots=True)
class Body:
    """What a revision does to the tables of the first one; `needs` is an option by its name."""

    code: str
    on: tuple[str, ...] = BOTH
    only: str = ""
    needs: tuple[str, ...] = ()
    imports: str = ""


FIRST = """
op.create_table("users", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(40)))
op.create_table(
    "posts",
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id", ondelete="CASCADE")),
    sa.Column("at", sa.DateTime(timezone=True)),
)
users = sa.table("users", sa.column("id", sa.Integer), sa.column("name", sa.String))
posts = sa.table("posts", sa.column("id", sa.Integer), sa.column("user_id", sa.Integer),
                 sa.column("at", sa.DateTime(timezone=True)))
op.bulk_insert(users, [{"id": 1, "name": "ada"}, {"id": 2, "name": "bob"}])
op.bulk_insert(posts, [{"id": 1, "user_id": 1, "at": None}, {"id": 2, "user_id": 2, "at": None}])
"""

BODIES = {
    "a column": Body(
        'op.add_column("users", sa.Column("email", sa.String(80), server_default="x"))'
    ),
    "a naive time": Body(
        'posts = sa.table("posts", sa.column("at", sa.DateTime(timezone=True)))\n'
        "op.get_bind().execute(posts.update().values(at=datetime(2024, 1, 1, 12)))"
    ),
    "a time of a zone": Body(
        'posts = sa.table("posts", sa.column("at", sa.DateTime(timezone=True)))\n'
        "op.get_bind().execute(posts.update().values(at=datetime(2024, 1, 1, 12, tzinfo=timezone.utc)))"
    ),
    "a literal time": Body("op.execute(\"UPDATE posts SET at = '2024-03-04 12:00'\")"),
    "a per cent": Body("op.get_bind().exec_driver_sql(\"UPDATE users SET name = '50%'\")"),
    "two per cents": Body("op.get_bind().exec_driver_sql(\"UPDATE users SET name = '50%%'\")"),
    "a colon": Body(
        r"op.execute(sa.text(\"UPDATE users SET name = 'a\\:b'\"))".replace(r"\"", '"')
    ),
    "the settings": Body(
        "op.execute(\"CREATE TABLE seen AS SELECT current_setting('app.tenant', true) AS t,"
        " current_setting('timezone') AS z, current_setting('search_path') AS p,"
        " current_setting('datestyle') AS d, current_setting('transaction_isolation') AS i,"
        " current_user::text AS u, current_setting('statement_timeout') AS s\")",
        on=POSTGRESQL,
    ),
    "the pragmas": Body(
        'rows = [(name, str(op.get_bind().exec_driver_sql(f"PRAGMA {name}").scalar()))\n'
        '        for name in ("foreign_keys", "recursive_triggers", "synchronous", "encoding")]\n'
        'op.execute("CREATE TABLE seen (name TEXT, value TEXT)")\n'
        "for name, value in rows:\n"
        "    op.execute(f\"INSERT INTO seen VALUES ('{name}', '{value}')\")",
        on=SQLITE,
    ),
    "what a temporary table says": Body(
        'op.execute("CREATE TABLE seen AS SELECT id FROM given")',
        needs=("session a temporary table",),
    ),
    "a tenant's rows": Body(
        'op.execute("ALTER TABLE users ENABLE ROW LEVEL SECURITY")\n'
        'op.execute("ALTER TABLE users FORCE ROW LEVEL SECURITY")\n'
        "op.execute(\"CREATE POLICY own ON users USING (current_setting('app.tenant', true) = 'a')\")\n"
        "op.execute(\"UPDATE users SET name = name || '!'\")\n"
        'op.execute("ALTER TABLE users NO FORCE ROW LEVEL SECURITY")',
        on=POSTGRESQL,
    ),
    "a rewritten word": Body(
        "op.execute(\"UPDATE users SET name = 'REWRITE'\")",
    ),
    "a function": Body(
        'op.execute("UPDATE users SET name = shout(name)")', on=SQLITE, needs=("option a function",)
    ),
    "a translated schema": Body(
        'op.create_table("more", sa.Column("id", sa.Integer), schema="theirs")',
        needs=("option translated",),
    ),
    "a parent made anew": Body(
        'with op.batch_alter_table("users", recreate="always") as batch:\n'
        '    batch.add_column(sa.Column("email", sa.String(80)))',
        on=SQLITE,
    ),
    "a child made anew": Body(
        'with op.batch_alter_table("posts", recreate="always") as batch:\n'
        '    batch.alter_column("at", new_column_name="made_at")',
        on=SQLITE,
    ),
    "a deleted parent": Body('op.execute("DELETE FROM users WHERE id = 1")'),
    "an orphan": Body('op.execute("INSERT INTO posts (id, user_id) VALUES (9, 99)")'),
    "a session": Body(
        "session = Session(bind=op.get_bind())\n"
        "session.execute(sa.text(\"UPDATE users SET name = 'by a session'\"))\nsession.flush()",
        imports="from sqlalchemy.orm import Session",
    ),
    "a session that commits": Body(
        "session = Session(bind=op.get_bind())\n"
        "session.execute(sa.text(\"UPDATE users SET name = 'by a session'\"))\nsession.commit()",
        imports="from sqlalchemy.orm import Session",
    ),
    "an autocommit block": Body(
        "with op.get_context().autocommit_block():\n"
        '    op.execute("CREATE INDEX CONCURRENTLY by_name ON users (name)")',
        on=POSTGRESQL,
    ),
    "an autocommit block, SQLite": Body(
        'with op.get_context().autocommit_block():\n    op.execute("PRAGMA user_version = 7")',
        on=SQLITE,
    ),
    "an enum": Body(
        'op.add_column("users", sa.Column("kind", sa.Enum("a", "b", name="kind"), server_default="a"))',
        on=SQLITE,
    ),
    "an enum of the server": Body(
        'sa.Enum("a", "b", name="kind").create(op.get_bind())\n'
        "op.execute(\"ALTER TABLE users ADD COLUMN kind kind DEFAULT 'b'\")",
        on=POSTGRESQL,
    ),
    "a table of many rows": Body(
        'users = sa.table("users", sa.column("id", sa.Integer), sa.column("name", sa.String))\n'
        'op.bulk_insert(users, [{"id": n, "name": f"n{n}"} for n in range(10, 400)])'
    ),
    "a script": Body(
        "op.get_bind().connection.driver_connection.executescript("
        "\"UPDATE users SET name = 'scripted'; CREATE TABLE scripted (id INTEGER);\")",
        on=SQLITE,
        only="sync",
    ),
    "the driver's own connection": Body(
        'op.get_bind().connection.driver_connection.execute("CREATE TABLE raw (id INTEGER)")',
        on=SQLITE,
        only="sync",
    ),
    "the driver's cursor": Body(
        "cursor = op.get_bind().connection.cursor()\n"
        "cursor.execute(\"UPDATE users SET name = 'raw'\")\ncursor.close()"
    ),
    "copy": Body(
        "with op.get_bind().connection.cursor() as cursor:\n"
        '    with cursor.copy("COPY users (id, name) FROM STDIN") as copy:\n'
        '        copy.write_row((7, "copied"))',
        on=POSTGRESQL,
        only="sync",
    ),
    "a text for a number": Body(
        "op.get_bind().execute(sa.text('INSERT INTO users (id, name) SELECT CAST(:n AS integer), :m'),"
        " {'n': '7', 'm': 'typed'})"
    ),
    "two statements at once": Body(
        "op.execute(\"UPDATE users SET name = 'one'; UPDATE users SET name = 'two'\")",
        on=POSTGRESQL,
    ),
    "an async call": Body(
        "async def fill(connection):\n"
        "    await connection.execute(sa.text(\"UPDATE users SET name = 'awaited'\"))\n"
        "op.run_async(fill)",
        only="async",
    ),
    "an x argument": Body(
        "op.execute(f\"UPDATE users SET name = '{context.get_x_argument(as_dictionary=True).get('who')}'\")",
        imports="from alembic import context",
    ),
    "a failure": Body(
        'op.execute("UPDATE users SET name = \'half\'")\nop.execute("SELECT * FROM absent")'
    ),
    "a failure after a table": Body(
        'op.create_table("half", sa.Column("id", sa.Integer))\nraise ValueError("no")'
    ),
}

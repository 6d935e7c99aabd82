"""What an env.py's syntax proves, and that it never proves too much."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent, indent

import alembic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.environments import ENVIRONMENTS

from automigrator.migrations.static.layout import Proof
from automigrator.migrations.static.proof import proof_of

TEMPLATES = Path(alembic.__file__).parent / "templates"

ASK = {
    "create_task",
    "offline_only",
    "replaces_version_locations",
    "schemas",
    "swallows_connect_errors",
    "swallows_errors",
    "swallows_unreachable",
    "version_table",
}
"""Kinds of env.py that must be asked: they may migrate otherwise than once, or elsewhere."""

STOCK = """
import asyncio
import functools
import sys
import threading
from app import engine, helper, names
from alembic import context

config = context.config


def migrate(connection, name=None):
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()


async def migrate_async():
    async with engine.connect() as connection:
        await connection.run_sync(migrate)


def offline():
    context.configure(url="sqlite://", literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


{more}


def online():
{online}


if context.is_offline_mode():
    offline()
else:
    online()
"""

ONCE = """
with engine.connect() as connection:
    migrate(connection)
"""


def table(online: str, more: str = "") -> bool:
    """Whether one version table is proved of an env.py with this online mode."""
    return proof(online, more).table


def once(online: str, more: str = "") -> bool:
    """Whether one migration is proved of it, with whichever version table."""
    return proof(online, more).once


def proof(online: str, more: str) -> Proof:
    body = indent(dedent(online).strip(), "    ")
    return proof_of(STOCK.format(online=body, more=dedent(more)).encode())


@pytest.mark.parametrize(
    ("template", "proved"),
    [
        ("generic", True),
        ("async", True),
        ("pyproject", True),
        ("pyproject_async", True),
        ("multidb", False),
    ],
)
def test_templates_of_alembic(template: str, proved: bool) -> None:
    assert proof_of((TEMPLATES / template / "env.py").read_bytes()).table is proved


@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_kinds_of_applications(kind: str) -> None:
    assert proof_of(ENVIRONMENTS[kind].text.encode()).table is (kind not in ASK)


@pytest.mark.parametrize(
    "online",
    [
        ONCE,
        "asyncio.run(migrate_async())",
        "loop = asyncio.get_event_loop()\nloop.run_until_complete(migrate_async())",
        """
        connection = config.attributes.get("connection")
        if connection is None:
            asyncio.run(migrate_async())
        else:
            migrate(connection)
        """,
        """
        try:
            with engine.connect() as connection:
                migrate(connection)
        except Exception:
            print("the migration failed")
            raise
        finally:
            engine.dispose()
        """,
        """
        if config.get_main_option("wait"):
            for attempt in range(5):
                print(attempt)
        with engine.connect() as connection:
            migrate(connection)
        """,
        """
        if engine is None:
            raise RuntimeError("no engine")
        if not names:
            sys.exit(1)
        with engine.begin() as connection:
            migrate(connection)
        """,
        """
        with engine.connect() as connection:
            context.configure(
                connection=connection,
                target_metadata=[each.metadata for each in names],
                include_object=lambda item, name, *_: name not in names,
                version_table="alembic_version",
                version_table_schema=None,
                compare_type=True,
            )
            with context.begin_transaction():
                context.run_migrations()
        """,
        """
        def process_revision_directives(context, revision, directives):
            if getattr(config.cmd_opts, "autogenerate", False):
                if directives[0].upgrade_ops.is_empty():
                    directives[:] = []
                    context.config.print_stdout("nothing")

        with engine.connect() as connection:
            migrate(connection)
        """,
    ],
)
def test_one_call_on_each_path_is_proved(online: str) -> None:
    assert table(online)


SEVERAL = {
    "enumerate": "for n, each in enumerate(names, 1):\n    migrate(engine.connect(), each)",
    "for": "for each in names:\n    migrate(engine.connect(), each)",
    "for else": "for each in names:\n    pass\nelse:\n    migrate(engine.connect())",
    "map": "list(map(lambda each: migrate(engine.connect(), each), names))",
    "map of the function": "list(map(migrate, names))",
    "while": "todo = list(names)\nwhile todo:\n    migrate(engine.connect(), todo.pop())",
    "list": "[migrate(engine.connect(), each) for each in names]",
    "set": "{migrate(engine.connect(), each) for each in names}",
    "dict": "{each: migrate(engine.connect(), each) for each in names}",
    "generator": "any(migrate(engine.connect(), each) for each in names)",
    "twice": "migrate(engine.connect(), 'a')\nmigrate(engine.connect(), 'b')",
    "two functions": "migrate(engine.connect())\nasyncio.run(migrate_async())",
    "both in one": "print(migrate(engine.connect()), migrate(engine.connect()))",
    "and": "engine and migrate(engine.connect())",
    "retry": """
        for attempt in range(3):
            try:
                migrate(engine.connect())
                break
            except OSError:
                pass
        """,
    "try again": """
        try:
            migrate(engine.connect())
        except OSError:
            migrate(engine.connect())
        """,
    "else of a try": """
        try:
            migrate(engine.connect())
        except OSError:
            raise
        else:
            migrate(engine.connect())
        """,
    "finally": """
        try:
            migrate(engine.connect())
        finally:
            migrate(engine.connect())
        """,
    "a manager for each": """
        for each in names:
            with helper(each) as connection:
                migrate(connection)
        """,
    "partial": "run = functools.partial(migrate, engine.connect())\nrun('a')\nrun('b')",
    "an alias": "run = migrate\nrun(engine.connect())\nrun(engine.connect())",
    "thread": "threading.Thread(target=migrate, args=(engine.connect(),)).start()",
    "callback": "helper(migrate)",
    "lambda": "helper(lambda connection: migrate(connection))",
    "context": "helper(context)",
    "configure": "helper(context.configure)",
    "by its name": "getattr(helper, 'configure')(connection=engine.connect())",
    "gather": "asyncio.run(asyncio.gather(migrate_async(), migrate_async()))",
    "task": "asyncio.get_running_loop().create_task(migrate_async())",
    "never awaited": "migrate_async()",
    "helper with the connection": """
        with engine.connect() as connection:
            helper(connection)
            migrate(connection)
        """,
    "helper with the connection, by another name": """
        with engine.connect() as conn:
            helper(conn)
            migrate(conn)
        """,
    "helper with the connection, configured by options": """
        with engine.connect() as conn:
            helper(conn)
            context.configure(connection=conn.execution_options(isolation_level="AUTOCOMMIT"))
            context.run_migrations()
        """,
    "helper that migrates": "migrate(engine.connect())\nhelper.migrate_others()",
    "a command line": "migrate(engine.connect())\nhelper.run(['alembic', 'upgrade', 'head'])",
    "on some path only": "if engine:\n    migrate(engine.connect())",
    "no path": "if engine:\n    raise OSError",
    "early return": "if engine is None:\n    return\nmigrate(engine.connect())",
    "return in a loop": "for each in names:\n    return\nmigrate(engine.connect())",
    "return in a finally": "try:\n    migrate(engine.connect())\nfinally:\n    return",
    "swallowed": "with contextlib.suppress(OSError):\n    migrate(engine.connect())",
    "match": "match engine:\n    case None:\n        migrate(engine.connect())",
    "except star": """
        try:
            migrate(engine.connect())
        except* OSError:
            pass
        """,
    "exec": "exec('migrate(engine.connect())')\nmigrate(engine.connect())",
    "globals": "globals()['migrate'](engine.connect())\nmigrate(engine.connect())",
    "import_module": "helper.import_module('alembic').context\nmigrate(engine.connect())",
    "search path": """
        with engine.connect() as connection:
            connection.exec_driver_sql("set search_path to other")
            migrate(connection)
        """,
    "a setting": """
        with engine.connect() as connection:
            connection.exec_driver_sql(f"SET {helper.name} = {helper.value}")
            migrate(connection)
        """,
    "role": """
        with engine.connect() as connection:
            connection.exec_driver_sql("SET ROLE owner")
            migrate(connection)
        """,
    "translated": "migrate(engine.connect().execution_options(schema_translate_map=names))",
    "options": "migrate(engine.connect().execution_options(**helper.options))",
    "default schema": "engine.dialect.default_schema_name = 'other'\nmigrate(engine.connect())",
    "script": "context.script.version_locations = names\nmigrate(engine.connect())",
}


@pytest.mark.parametrize("shape", SEVERAL)
def test_what_may_migrate_otherwise_is_not(shape: str) -> None:
    assert not table(SEVERAL[shape])


HELPERS = {
    "an imported helper through run_sync": """
        async def once():
            async with engine.connect() as connection:
                await connection.run_sync(helper)
                await connection.run_sync(migrate)


        def each():
            asyncio.run(once())
        """,
    "a loop in a helper": "def each():\n    for name in names:\n        migrate(engine.connect())",
    "an async loop": """
        async def every():
            async for connection in helper():
                await connection.run_sync(migrate)


        def each():
            asyncio.run(every())
        """,
    "a call twice in a helper": """
        def one():
            migrate(engine.connect())


        def each():
            one()
            one()
        """,
    "recursion": """
        def each(n=3):
            migrate(engine.connect())
            if n:
                each(n - 1)
        """,
    "a decorator": "@helper\ndef each():\n    migrate(engine.connect())",
    "a generator": "def each():\n    yield migrate(engine.connect())",
    "a method": """
        class Runner:
            def go(self):
                migrate(engine.connect())


        each = Runner().go
        """,
    "two of one name": """
        def each():
            migrate(engine.connect())


        def each():
            migrate(engine.connect())
            helper()
        """,
    "a default": "def each(done=migrate(engine.connect())):\n    migrate(engine.connect())",
    "import *": "from app.models import *\ndef each():\n    migrate(engine.connect())",
    "another context": "from app import context\ndef each():\n    migrate(engine.connect())",
    "alembic": "import alembic\ndef each():\n    migrate(engine.connect())",
    "command": "from alembic import command\ndef each():\n    migrate(engine.connect())",
    "MigrationContext": """
        from alembic.runtime.migration import MigrationContext


        def each():
            MigrationContext.configure(engine.connect()).run_migrations()
            migrate(engine.connect())
        """,
}


@pytest.mark.parametrize("shape", HELPERS)
def test_what_a_helper_may_do_otherwise_is_not(shape: str) -> None:
    assert not table("each()", HELPERS[shape])
    assert not once("each()", HELPERS[shape])


@pytest.mark.parametrize(
    "options",
    [
        'version_table="mine"',
        "version_table=names[0]",
        'version_table_schema="other"',
        "**names",
        "*names",
    ],
)
def test_a_version_table_that_only_env_py_knows_is_not(options: str) -> None:
    online = f"context.configure(engine.connect(), {options})\ncontext.run_migrations()"
    assert not table(online)
    assert once(online)


def test_one_that_only_the_session_knows_is_not() -> None:
    online = "engine.execute('set search_path = other')\nmigrate(engine.connect())"
    assert not table(online)
    assert once(online)


def test_several_databases_offline_are_not() -> None:
    text = STOCK.format(online=indent(ONCE, "    "), more="")
    looped = text.replace("    offline()", "    for each in names:\n        offline()")
    assert proof_of(text.encode()).table
    assert not proof_of(looped.encode()).table


def test_an_encoding_and_a_byte_order_mark_are_read_as_python_does() -> None:
    text = STOCK.format(online=indent(ONCE, "    "), more="# für")
    assert proof_of(b"\xef\xbb\xbf" + text.encode()).table
    assert proof_of(b"# coding: latin-1\n" + text.encode("latin-1")).table
    assert not proof_of(b"def").folders


@pytest.mark.parametrize(
    "moved",
    [
        "config.set_main_option('version_locations', 'other')",
        "context.script.version_locations = ['other']",
        "setattr(helper, 'script', 'other')",
    ],
)
def test_folders_that_env_py_may_name_are_not_proved(moved: str) -> None:
    text = STOCK.format(online=indent(ONCE, "    "), more="# version_locations = everywhere")
    assert proof_of(text.encode()).folders
    assert not proof_of(f"{text}\n{moved}\n".encode()).folders


# Programs of calls in every wrapping, run for real by Alembic: what is proved has one call.

_CALLS = st.sampled_from(
    [
        "migrate(connection)",
        "other(connection)",
        "asyncio.run(in_loop(connection))",
        "pass",
        "return",
        "raise ValueError",
        "helper(migrate, connection)",
    ]
)
_WRAPPINGS = st.sampled_from(
    [
        "for n in range({n}):\n{a}",
        "while count() < {n}:\n{a}",
        "if {n} % 2:\n{a}\nelse:\n{b}",
        "if context.is_offline_mode():\n{a}\nelse:\n{b}",
        "if not context.is_offline_mode():\n{a}",
        "try:\n{a}\nexcept ValueError:\n{b}",
        "try:\n{a}\nfinally:\n{b}",
        "try:\n{a}\nexcept ValueError:\n{b}\n    raise\nelse:\n{b}",
        "with manager():\n{a}",
        "match {n}:\n    case 1:\n{aa}\n    case _:\n{bb}",
        "def local{n}():\n{a}\nlocal{n}()",
        "{c}\n{d}",
    ]
)


def _wrapped(parts: tuple[str, str, str, int]) -> str:
    shape, a, b, n = parts
    one, two = indent(a, "    "), indent(b, "    ")
    return shape.format(a=one, b=two, aa=indent(one, "    "), bb=indent(two, "    "), c=a, d=b, n=n)


PROGRAMS = st.recursive(
    _CALLS,
    lambda inner: st.tuples(_WRAPPINGS, inner, inner, st.integers(0, 3)).map(_wrapped),
    max_leaves=5,
)

ENV = """
import asyncio
from contextlib import contextmanager
from sqlalchemy import create_engine, pool
from alembic import context

calls = []

def count():
    calls.append(1)
    return len(calls)

@contextmanager
def manager():
    yield

def helper(function, given):
    function(given)
    function(given)

def migrate(connection):
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()

def other(connection):
    migrate(connection)

async def in_loop(connection):
    migrate(connection)

def online(connection):
{body}

with create_engine("sqlite://", poolclass=pool.StaticPool).connect() as connection:
    online(connection)
"""

RUN = """
import sys
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory

def counted(name):
    original = getattr(environment, name)
    def call(*args, **options):
        calls.append(name)
        return original(*args, **options)
    setattr(environment, name, call)

for folder in sys.argv[1:]:
    config, calls = Config(), []
    config.set_main_option("script_location", folder)
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    environment = EnvironmentContext(config, script, fn=lambda *_: (), destination_rev="heads")
    counted("configure")
    counted("run_migrations")
    try:
        with environment:
            script.run_env()
    except ValueError:
        continue  # it fails, and nobody takes that for a migration
    assert calls == ["configure", "run_migrations"], (calls, open(folder + "/env.py").read())
"""


@pytest.mark.long
def test_what_is_proved_configures_once_when_alembic_runs_it(tmp_path: Path) -> None:
    proved: dict[str, Path] = {}

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(PROGRAMS)
    def collect(body: str) -> None:
        text = ENV.format(body=indent(body, "    "))
        if body not in proved and proof_of(text.encode()).table:
            folder = proved[body] = tmp_path / f"{len(proved)}"
            folder.mkdir()
            (folder / "env.py").write_text(text)

    collect()
    assert len(proved) > 2
    command = [sys.executable, "-c", RUN, *map(str, proved.values())]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr

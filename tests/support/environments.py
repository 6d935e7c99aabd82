"""The env.py files that applications write: one template, and what is peculiar to each kind."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent, indent

_TEMPLATE = '''\
"""{about}"""

from logging.config import fileConfig

{imports}

config = context.config

{logging}
{beginning}

def run_migrations({arguments}) -> None:
{migrate}


def run_migrations_offline() -> None:
    context.configure(url=config.get_main_option("sqlalchemy.url"), literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


{functions}def run_migrations_online() -> None:
{online}


if context.is_offline_mode():
    run_migrations_offline()
else:
    run_migrations_online()
'''

_IMPORTS = """
from alembic import context
from sqlalchemy import Connection, engine_from_config, pool
"""

_LOGGING = """
if config.config_file_name is not None:
    fileConfig(config.config_file_name)
"""

_MIGRATE = """
context.configure(connection=connection, target_metadata=None)
with context.begin_transaction():
    context.run_migrations()
"""

_ENGINE = """engine_from_config(
    config.get_section(config.config_ini_section, {}),
    prefix="sqlalchemy.",
    poolclass=pool.NullPool,
)"""

_ONLINE = f"""
with {_ENGINE}.connect() as connection:
    run_migrations(connection)
"""

_SHARED = """
connection = config.attributes.get("connection", None)
if connection is not None:
    run_migrations(connection)
    return
"""

_ASYNC = f"""
async def run_async_migrations() -> None:
    engine = async_{indent(_ENGINE, "    ").lstrip()}
    async with engine.connect() as connection:
        await connection.run_sync(run_migrations)
    await engine.dispose()
"""

_ASYNC_IMPORTS = """
import asyncio
from alembic import context
from sqlalchemy import Connection, pool
from sqlalchemy.ext.asyncio import async_engine_from_config
"""

_UNREACHABLE = """
try:
    connection = engine.connect()
except OperationalError:
    return
with connection:
    run_migrations(connection)
"""


@dataclass(frozen=True, slots=True)
class Environment:
    """An env.py; what is not given is as in the file of an application without peculiarities.

    `beginning` is code between the configuration and the functions, `functions` are more of them,
    `migrate` and `online` are the bodies of `run_migrations` and `run_migrations_online`.
    """

    about: str
    imports: str = _IMPORTS
    logging: str = _LOGGING
    beginning: str = ""
    arguments: str = "connection: Connection"
    migrate: str = _MIGRATE
    functions: str = ""
    online: str = _ONLINE

    @property
    def text(self) -> str:
        """The file."""
        return _TEMPLATE.format(
            about=self.about,
            imports=_code(self.imports),
            logging=_code(self.logging),
            beginning=f"\n{_code(self.beginning)}\n" if self.beginning else "",
            arguments=self.arguments,
            migrate=_body(self.migrate),
            functions=f"{_code(self.functions)}\n\n\n" if self.functions else "",
            online=_body(self.online),
        )


def _code(text: str) -> str:
    return dedent(text).strip()


def _body(text: str) -> str:
    return indent(_code(text), "    ")


ENVIRONMENTS = {
    "cookbook": Environment(
        "The cookbook's shared connection, else a sync engine from the ini's URL.",
        online=_SHARED + _ONLINE.lstrip(),
    ),
    "cookbook_async": Environment(
        "The cookbook's shared connection, else an async engine from the ini's URL.",
        imports=_ASYNC_IMPORTS,
        functions=_ASYNC,
        online="""
            connection = config.attributes.get("connection", None)
            if connection is None:
                asyncio.run(run_async_migrations())
            else:
                run_migrations(connection)
            """,
    ),
    "fileconfig_unguarded": Environment(
        "Calls `fileConfig` at the top, whoever runs it.",
        logging="fileConfig(config.config_file_name)",
    ),
    "ignores_connection": Environment(
        "A pooled engine of its own made at import, from the ini's URL.",
        imports="from alembic import context\nfrom sqlalchemy import Connection, create_engine",
        beginning='engine = create_engine(config.get_main_option("sqlalchemy.url", ""))',
        online="with engine.connect() as connection:\n    run_migrations(connection)",
    ),
    "hardcoded_url": Environment(
        "An engine to a URL written in env.py, which is not the target's.",
        imports="""
            from alembic import context
            from sqlalchemy import Connection, create_engine, pool
            """,
        beginning='engine = create_engine("<other url>", poolclass=pool.NullPool)',
        online="with engine.connect() as connection:\n    run_migrations(connection)",
    ),
    "env_url": Environment(
        "A URL from the environment's DATABASE_URL, sync or async as its driver is.",
        imports="""
            import asyncio
            import os
            from alembic import context
            from sqlalchemy import Connection, create_engine, make_url, pool
            from sqlalchemy.ext.asyncio import create_async_engine
            """,
        beginning='url = make_url(os.environ["DATABASE_URL"])',
        functions="""
            async def run_async_migrations() -> None:
                engine = create_async_engine(url, poolclass=pool.NullPool)
                async with engine.connect() as connection:
                    await connection.run_sync(run_migrations)
                await engine.dispose()
            """,
        online="""
            if url.get_dialect().is_async:
                asyncio.run(run_async_migrations())
                return
            with create_engine(url, poolclass=pool.NullPool).connect() as connection:
                run_migrations(connection)
            """,
    ),
    "create_task": Environment(
        "`loop.create_task` where a loop runs: it returns before anything happened.",
        imports=_ASYNC_IMPORTS,
        beginning="tasks = set()",
        functions=_ASYNC,
        online="""
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                asyncio.run(run_async_migrations())
            else:
                tasks.add(loop.create_task(run_async_migrations()))
            """,
    ),
    "engine_attribute": Environment(
        '`attributes["connection"]` is taken for an Engine.',
        online=f"""
engine = config.attributes.get("connection", None)
if engine is None:
    engine = {indent(_ENGINE, "    ").lstrip()}
with engine.connect() as connection:
    run_migrations(connection)
""",
    ),
    "swallows_errors": Environment(
        "Prints what a revision raised and returns as if all were well.",
        migrate="""
            context.configure(connection=connection, target_metadata=None)
            try:
                with context.begin_transaction():
                    context.run_migrations()
            except Exception as error:
                print(f"the migration failed, and the application starts anyway: {type(error)}")
            """,
    ),
    "swallows_connect_errors": Environment(
        "Returns as if all were well when its database is out of reach.",
        imports=f"{_IMPORTS}from sqlalchemy.exc import OperationalError",
        online=f"engine = {_ENGINE}{_UNREACHABLE}",
    ),
    "swallows_unreachable": Environment(
        "Returns as if all were well, and its database always is out of reach.",
        imports="""
            from alembic import context
            from sqlalchemy import Connection, create_engine, pool
            from sqlalchemy.exc import OperationalError
            """,
        online='engine = create_engine("sqlite:////nowhere/at/all.db", poolclass=pool.NullPool)'
        f"{_UNREACHABLE}",
    ),
    "replaces_version_locations": Environment(
        "Names the folder of its revisions at run time; the default folder has none.",
        imports=f"from pathlib import Path{_IMPORTS}",
        beginning="""
            locations = [str(Path(__file__).parents[1] / "revisions")]
            config.set_main_option("version_locations", locations[0])
            context.script.__dict__.pop("_version_locations", None)
            context.script.version_locations = locations
            """,
    ),
    "schemas": Environment(
        "Migrates two PostgreSQL schemas in turn, with a version table in each.",
        imports="""
            from alembic import context
            from sqlalchemy import Connection, engine_from_config, pool, text
            """,
        arguments="connection: Connection, schema: str",
        migrate="""
            connection.execute(text(f"create schema if not exists {schema}"))
            connection.execute(text(f"set search_path to {schema}"))
            connection.commit()
            connection.dialect.default_schema_name = schema
            context.configure(connection=connection, version_table_schema=schema)
            with context.begin_transaction():
                context.run_migrations()
            """,
        online=f"""
with {_ENGINE}.connect() as connection:
    for schema in ("tenant_a", "tenant_b"):
        run_migrations(connection, schema)
""",
    ),
    "per_migration": Environment(
        "`transaction_per_migration=True`.",
        migrate=_MIGRATE.replace("target_metadata=None", "transaction_per_migration=True"),
    ),
    "version_table": Environment(
        "A version table of its own name, on PostgreSQL in a schema of its own.",
        imports="""
            from alembic import context
            from sqlalchemy import Connection, engine_from_config, pool, text
            """,
        migrate="""
            schema = "meta" if connection.dialect.name == "postgresql" else None
            if schema is not None:
                connection.execute(text(f"create schema if not exists {schema}"))
                connection.commit()
            context.configure(
                connection=connection, version_table="my_versions", version_table_schema=schema
            )
            with context.begin_transaction():
                context.run_migrations()
            """,
    ),
    "offline_only": Environment(
        "Writes SQL; does nothing at all when asked to migrate.", online="pass"
    ),
    "opens_second_engine": Environment(
        "Takes the shared connection and migrates on another of its engine.",
        online=f"""
connection = config.attributes.get("connection", None)
engine = connection.engine if connection is not None else {_ENGINE}
with engine.connect() as second:
    run_migrations(second)
""",
    ),
    "begin_outside": Environment(
        "An outer transaction of its own around all that Alembic does.",
        online=_ONLINE.replace(".connect()", ".begin()"),
    ),
}
"""Each kind that is not one of Alembic's own templates, by its name."""

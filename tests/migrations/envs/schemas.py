"""Migrates one PostgreSQL schema after the other, each with a version table of its own."""

from logging.config import fileConfig

from alembic import context
from sqlalchemy import Connection, engine_from_config, pool, text

config = context.config

if config.config_file_name is not None:
    fileConfig(config.config_file_name)


def run_migrations(connection: Connection, schema: str) -> None:
    connection.execute(text(f"create schema if not exists {schema}"))
    connection.execute(text(f"set search_path to {schema}"))
    connection.commit()
    connection.dialect.default_schema_name = schema
    context.configure(connection=connection, version_table_schema=schema)
    with context.begin_transaction():
        context.run_migrations()


def run_migrations_offline() -> None:
    context.configure(url=config.get_main_option("sqlalchemy.url"), literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


def run_migrations_online() -> None:
    with engine_from_config(
        config.get_section(config.config_ini_section, {}),
        prefix="sqlalchemy.",
        poolclass=pool.NullPool,
    ).connect() as connection:
        for schema in ("tenant_a", "tenant_b"):
            run_migrations(connection, schema)


if context.is_offline_mode():
    run_migrations_offline()
else:
    run_migrations_online()

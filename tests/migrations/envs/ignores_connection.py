"""Makes an engine of its own while it is imported, whatever it is offered."""

from logging.config import fileConfig

from alembic import context
from sqlalchemy import Connection, create_engine

config = context.config

if config.config_file_name is not None:
    fileConfig(config.config_file_name)

engine = create_engine(config.get_main_option("sqlalchemy.url", ""))


def run_migrations(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=None)
    with context.begin_transaction():
        context.run_migrations()


def run_migrations_offline() -> None:
    context.configure(url=config.get_main_option("sqlalchemy.url"), literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


def run_migrations_online() -> None:
    with engine.connect() as connection:
        run_migrations(connection)


if context.is_offline_mode():
    run_migrations_offline()
else:
    run_migrations_online()

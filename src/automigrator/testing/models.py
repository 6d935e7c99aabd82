"""What env.py alone knows: its models, and how a database differs from them; its version tables."""

from __future__ import annotations

from automigrator.runner.session import opened
from automigrator.target import Target


async def drift_of(target: Target) -> tuple[str, ...] | None:
    """A line for each difference between env.py's `target_metadata` and the target's database.

    None where env.py has no models. Raises what env.py and the comparison raise.
    """
    async with opened(target) as session:
        migration = await session.migration()
        # Alembic comes with them
        from automigrator.migrations.comparison import drift
        from automigrator.migrations.probe import probe

        _, execution = await probe(migration)
        models = [each for context in execution.contexts for each in context.models]
        return await drift(migration, models) if models else None


async def version_tables_of(target: Target) -> tuple[str, ...]:
    """The names of the tables that env.py keeps heads in; it is run where only it can tell.

    Changes nothing. Raises what env.py raises.
    """
    async with opened(target) as session:
        proof = (await session.history()).proof
        if proof.folders and proof.table:
            return (session.table.name,)
        migration = await session.migration()
        # Alembic comes with it
        from automigrator.migrations.probe import probe

        _, execution = await probe(migration)
        return tuple(context.table.name for context in execution.contexts)

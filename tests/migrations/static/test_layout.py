"""What env.py's text may say without its version table being anybody's guess."""

from __future__ import annotations

import pytest

from automigrator.migrations.static.layout import plain_environment

PLAIN = "with context.begin_transaction():\n    context.configure(connection=connection)\n"


def test_a_stock_environment_is_plain() -> None:
    assert plain_environment(PLAIN)


@pytest.mark.parametrize(
    "hint",
    [
        "version_table='mine'",
        "connection.execute(text(f'SET SCHEMA {name}'))",
        "connection.dialect.default_schema_name = name",
        "context.configure(connection=connection, **OPTIONS)",
        "context.configure(\n    connection=connection,\n    url=url(),\n    **OPTIONS\n)",
        "for tenant in tenants: migrate(tenant)",
    ],
)
def test_a_hint_of_a_version_table_of_its_own_is_taken(hint: str) -> None:
    assert not plain_environment(PLAIN + hint)


def test_one_that_configures_elsewhere_is_not_plain() -> None:
    assert not plain_environment("from app.migrations import run\nrun()")

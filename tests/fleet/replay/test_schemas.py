"""Tenants that are schemas of one database: rendered for names that nobody has."""

from __future__ import annotations

import pytest
from sqlalchemy import make_url
from support.replayed_tenants import SCHEMA_ENV, Tenants, dump, history, of_schema

from automigrator.testing.contents import execute

FIRST = """
    op.create_table("users", sa.Column("id", sa.Integer, primary_key=True),
                    sa.Column("name", sa.String(50)))
"""
PENDING = (
    'op.add_column("users", sa.Column("email", sa.String(99), server_default="none"))',
    """
    op.create_table("posts", sa.Column("id", sa.Integer, primary_key=True),
                    sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id")))
    op.create_index("ix_posts", "posts", ["user_id"])
    """,
    'op.execute("insert into posts (user_id) select id from users")',
)
NAMES = ("acme", "globex", "initech")


@pytest.fixture
def schemas(postgres_tenants: Tenants) -> Tenants:
    postgres_tenants.env, postgres_tenants.kind = SCHEMA_ENV, "generic"
    postgres_tenants.revisions = history(FIRST, *PENDING)
    return postgres_tenants


async def made(tenants: Tenants, *names: str) -> str:
    """A database with these tenants at the first revision, with a row each."""
    url = tenants.url()
    for name in names:
        await execute(make_url(url), f'create schema "{name}"')
        report = await tenants.migrate(url, replay=None, revision="r1", **of_schema(name))
        assert report.after == ("r1",), report
        await execute(make_url(url), f"insert into \"{name}\".users values (1, 'of {name}')")
    return url


async def test_each_schema_is_as_plain_alembic_makes_it(schemas: Tenants) -> None:
    url, twin = await made(schemas, *NAMES), await made(schemas, *NAMES)
    for name in NAMES:
        report = await schemas.migrate(url, **of_schema(name))
        assert (report.drive, report.notes) == ("replay", ())
        schemas.plain(twin, "-x", f"tenant={name}")

    assert dump(url) == dump(twin)
    assert schemas.replay.refusals == ()

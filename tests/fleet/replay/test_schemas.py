"""Tenants that are schemas of one database: rendered for names that nobody has."""

from __future__ import annotations

import pytest
from sqlalchemy import make_url
from support import alembic_projects
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


class TestNames:
    """A name takes the place of another only where that is the same SQL."""

    @pytest.mark.parametrize("name", ["Acme", "order", "a-b"])
    @pytest.mark.long("[Acme]", "[a-b]")
    async def test_one_that_sql_quotes_is_run_by_alembic(self, name: str, schemas: Tenants) -> None:
        schemas.env = SCHEMA_ENV.replace('{tenant}"', '\\"{tenant}\\""')
        url = await made(schemas, "acme", name)
        report = await schemas.migrate(url, **of_schema(name))
        assert report.after == ("r4",)
        assert report.notes == (f"run by Alembic, not replayed: SQL has to quote {name!r}",)

    async def test_within_a_longer_name_it_is_refused(self, schemas: Tenants) -> None:
        schemas.env = SCHEMA_ENV.replace(
            "        context.run_migrations()\n\n\ndef run_migrations_online",
            '        context.execute(f"create table {tenant}_log (id int)")\n'
            "        context.run_migrations()\n\n\ndef run_migrations_online",
        )
        url = await made(schemas, "acme")
        report = await schemas.migrate(url, **of_schema("acme"))
        assert report.after == ("r4",)
        assert "the tenant's name is a part of a longer name" in report.notes[0]

    async def test_options_of_another_tenant_are_proved_by_themselves(
        self, schemas: Tenants
    ) -> None:
        """The schema is not in the options: nothing tells what else is the tenant's own."""
        schemas.env = SCHEMA_ENV.replace(
            'context.get_x_argument(as_dictionary=True)["tenant"]',
            '{"1": "acme", "2": "globex"}[context.get_x_argument(as_dictionary=True)["id"]]',
        )
        url = schemas.url()
        for number, name in (("1", "acme"), ("2", "globex")):
            await execute(make_url(url), f"create schema {name}")
            await schemas.migrate(url, replay=None, revision="r1", x=[f"id={number}"])
            await execute(make_url(url), f"insert into {name}.users values (1, 'of {name}')")
        for number, name in (("2", "globex"), ("1", "acme")):
            report = await schemas.migrate(url, x=[f"id={number}"])
            found = alembic_projects.query(url, f"select version_num from {name}.alembic_version")
            assert (report.after, [row[0] for row in found]) == (("r4",), ["r4"])
        assert {"acme.posts", "globex.posts"} <= alembic_projects.tables(url)

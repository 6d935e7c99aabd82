"""A replay gives what plain Alembic gives, or Alembic runs: for every tenant, in every case."""

from __future__ import annotations

import pytest
from support import alembic_projects
from support.replayed_tenants import Tenants, dump, history

FIRST = """
    op.create_table(
        "users",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(50), nullable=False),
        sa.Column("score", sa.Numeric(8, 2)),
    )
    op.create_table(
        "posts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id", ondelete="CASCADE")),
        sa.Column("body", sa.Text, nullable=False),
    )
"""
ROWS = (
    "insert into users (id, name, score) values (1, 'Ann', 1.50), (2, 'it''s %Bob%', null)",
    "insert into posts (id, user_id, body) values (1, 1, 'first'), (2, 2, 'second')",
)
MORE_ROWS = ("insert into users (id, name) values (7, 'Zoë'), (8, ''), (9, '100%')",)

BODIES = {
    "a column with a default": 'op.add_column("users", sa.Column("active", sa.Boolean, '
    "server_default=sa.true(), nullable=False))",
    "a clock's default": 'op.add_column("posts", sa.Column("state", sa.String(9), '
    "server_default='new'))",
    "an index": 'op.create_index("ix_users_name", "users", ["name"], unique=True)',
    "a partial index": 'op.create_index("ix_high", "users", ["score"], '
    'postgresql_where=sa.text("score > 10"), sqlite_where=sa.text("score > 10"))',
    "all types": """
        op.create_table(
            "kinds",
            sa.Column("id", sa.BigInteger, primary_key=True),
            sa.Column("kind", sa.Enum("new", "old", name="kind"), nullable=False),
            sa.Column("flag", sa.Boolean, nullable=False),
            sa.Column("day", sa.Date),
            sa.Column("at", sa.DateTime(timezone=True)),
            sa.Column("data", sa.JSON),
            sa.Column("raw", sa.LargeBinary),
            sa.Column("price", sa.Numeric(10, 3), sa.CheckConstraint("price >= 0", name="ck")),
            sa.Column("key", sa.Uuid),
            sa.UniqueConstraint("kind", "day", name="uq_kinds"),
        )
    """,
    "rows": """
        kinds = sa.table("kinds", sa.column("id", sa.Integer), sa.column("kind", sa.Enum("new", "old", name="kind")),
                         sa.column("flag", sa.Boolean), sa.column("price", sa.Numeric(10, 3)))
        op.bulk_insert(kinds, [
            {"id": 1, "kind": "new", "flag": True, "price": 1.25},
            {"id": 2, "kind": "old", "flag": False, "price": None},
        ])
    """,
    "an update": """
        users = sa.table("users", sa.column("id", sa.Integer), sa.column("name", sa.String))
        op.execute(users.update().where(users.c.id > 1).values(name=users.c.name + " it's 100%:x"))
    """,
    "a text as it is": r"""
        op.execute("update posts set body = body || ' %s 5%% \\:z' where id < 9")
    """,
    "a tab": "op.execute(\"update posts set state = 'a\\tb' where id = 1\")",
    "a dropped column": 'op.drop_column("posts", "state")',
    "another name": 'op.rename_table("posts", "articles")',
    "a dropped table": 'op.drop_table("kinds")',
}
"""Bodies of revisions that are safe, in the order in which they run."""

POSTGRESQL = {
    "a foreign key": 'op.create_foreign_key("fk_again", "articles", "users", ["user_id"], ["id"])',
    "another type": 'op.alter_column("users", "score", type_=sa.Float, nullable=False, '
    'server_default="0", postgresql_using="coalesce(score, 0)::float")',
    "comments": 'op.create_table_comment("users", "it\'s ours")',
    "identity": 'op.create_table("i", sa.Column("id", sa.Integer, sa.Identity(start=5), '
    'primary_key=True), sa.Column("double", sa.Integer, sa.Computed("id * 2", persisted=True)))',
    "a function": 'op.execute("create function twice(int) returns int language plpgsql as $$ '
    'begin return 2 * $1; end; $$")',
    "a view": "op.execute('create view names as select name, twice(id) from users')",
    "a sequence": "op.execute('create sequence numbers start 7'); "
    "op.execute(\"select nextval('numbers')\")",
    "a clock of the server's": 'op.add_column("users", sa.Column("seen", '
    "sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False))",
    "chance of the server's": "op.add_column('users', sa.Column('u', sa.Uuid, "
    "server_default=sa.text('gen_random_uuid()')))",
}

CHANCE = ("a clock of the server's", "chance of the server's")


class TestSafeRevisions:
    """What is known to write the same SQL for every tenant is replayed."""

    async def test_every_tenant_is_as_plain_alembic_makes_it(self, tenants: Tenants) -> None:
        bodies = dict(BODIES)
        if tenants.database == "postgresql":
            bodies |= {k: v for k, v in POSTGRESQL.items() if k not in CHANCE}
        tenants.revisions = history(FIRST, *bodies.values())

        for rows in (ROWS, (*ROWS, *MORE_ROWS), ()):
            url, twin = await tenants.at("r1", *rows), await tenants.at("r1", *rows)
            report = await tenants.migrate(url)
            tenants.plain(twin)

            assert (report.drive, report.notes, report.failures) == ("replay", (), ())
            assert [each.revision for each in report.applied] == [
                f"r{n}" for n in range(2, len(bodies) + 2)
            ]
            assert dump(url) == dump(twin)
        assert tenants.replay.refusals == ()

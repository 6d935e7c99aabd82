"""A replay gives what plain Alembic gives, or Alembic runs: for every tenant, in every case."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import make_url
from support import alembic_projects
from support.replayed_tenants import SCHEMA_ENV, Tenants, dump, history

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
        kinds = sa.table("kinds", sa.column("id", sa.Integer),
                         sa.column("kind", sa.Enum("new", "old", name="kind")),
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

        for rows in (ROWS, (*ROWS, *MORE_ROWS)):
            url, twin = await tenants.at("r1", *rows), await tenants.at("r1", *rows)
            report = await tenants.migrate(url)
            tenants.plain(twin)

            assert (report.drive, report.notes, report.failures) == ("replay", (), ())
            assert [each.revision for each in report.applied] == [
                f"r{n}" for n in range(2, len(bodies) + 2)
            ]
            assert dump(url) == dump(twin)
        assert tenants.replay.refusals == ()

    async def test_the_servers_own_clock_and_chance_are_no_difference(
        self, postgres_tenants: Tenants
    ) -> None:
        bodies = [POSTGRESQL[each] for each in CHANCE]
        postgres_tenants.revisions = history(FIRST, *bodies)
        url = await postgres_tenants.at("r1", *ROWS, *MORE_ROWS)

        report = await postgres_tenants.migrate(url)

        assert (report.drive, report.notes) == ("replay", ())
        drawn = alembic_projects.query(url, "select distinct u from users where u is not null")
        assert len(drawn) == 5

    async def test_what_is_outside_of_transactions_stays_there(
        self, postgres_tenants: Tenants
    ) -> None:
        apart = """
            op.add_column("users", sa.Column("a", sa.Integer))
            with op.get_context().autocommit_block():
                op.create_index("ix", "users", ["a"], postgresql_concurrently=True)
            op.add_column("users", sa.Column("b", sa.Integer))
        """
        postgres_tenants.revisions = history(FIRST, apart, BODIES["an index"])
        url, twin = [await postgres_tenants.at("r1", *ROWS) for _ in range(2)]
        postgres_tenants.plain(twin)

        report = await postgres_tenants.migrate(url)

        assert (report.drive, report.notes, dump(url)) == ("replay", (), dump(twin))

    @pytest.mark.long("[postgresql]")
    async def test_tenants_at_other_heads_are_proved_by_themselves(self, tenants: Tenants) -> None:
        tenants.revisions = history(FIRST, BODIES["a column with a default"], BODIES["an index"])
        for start in ("r1", "r2", "base", "r1"):
            url, twin = [await tenants.at(start, *() if start == "base" else ROWS) for _ in "ab"]
            report = await tenants.migrate(url)
            tenants.plain(twin)

            assert (report.drive, report.notes, dump(url)) == ("replay", (), dump(twin))


READS = """
bind = op.get_bind()
for row in bind.execute(sa.text("select id, name from users")).all() if bind else ():
    op.execute(f"update users set name = 'number {row.id}' where id = {row.id}")
"""
DRAWS = """
rows = sa.table("users", sa.column("id", sa.Integer), sa.column("name", sa.String))
op.execute(rows.update().values(name=str(uuid.uuid4())))
"""


class TestUnsafeRevisions:
    """They are found, and Alembic runs them."""

    async def test_one_that_reads_rows_is_run_by_alembic(self, tenants: Tenants) -> None:
        tenants.revisions = history(FIRST, BODIES["an index"], READS)
        for rows in (ROWS, MORE_ROWS):
            url, twin = [await tenants.at("r1", *rows) for _ in "ab"]
            report = await tenants.migrate(url)
            tenants.plain(twin)

            (note,) = report.notes
            assert "not replayed: r3_.py:13: op.get_bind asks the database" in note
            assert note.endswith("; env.py asks for one transaction for all")
            assert report.drive != "replay"
            assert dump(url) == dump(twin)

    async def test_one_that_draws_draws_for_every_tenant(self, sqlite_tenants: Tenants) -> None:
        sqlite_tenants.revisions = history(FIRST, DRAWS, imports=["", "import uuid"])
        names = set()
        for _ in range(2):
            url = await sqlite_tenants.at("r1", *ROWS)
            report = await sqlite_tenants.migrate(url)
            assert "uuid.uuid4 makes a UUID" in report.notes[0]
            names |= set(alembic_projects.query(url, "select name from users"))
        assert len(names) == 2

    @pytest.mark.long("[postgresql]")
    async def test_in_transactions_of_their_own_the_others_are_replayed(
        self, tenants: Tenants
    ) -> None:
        tenants.kind = "per_migration"
        safe = BODIES["a column with a default"], BODIES["another name"]
        tenants.revisions = history(FIRST, safe[0], READS, BODIES["an index"], safe[1])
        for rows in (ROWS, MORE_ROWS):
            url, twin = [await tenants.at("r1", *rows) for _ in "ab"]
            report = await tenants.migrate(url)
            tenants.plain(twin)

            assert (report.drive, report.notes) == ("replay", ())
            assert [each.revision for each in report.applied] == ["r2", "r3", "r4", "r5"]
            assert dump(url) == dump(twin)


OTHERWISE = """
class Otherwise(sa.TypeDecorator):
    impl, cache_ok = sa.String, True

    def process_bind_param(self, value, dialect):
        return f"bound {value}"

    def process_literal_param(self, value, dialect):
        return f"literal {value}"
"""


class TestProof:
    """A copy that was replayed must be like one that Alembic has migrated."""

    @pytest.mark.long("[postgresql]")
    async def test_other_rows_are_seen(self, tenants: Tenants) -> None:
        body = """
            users = sa.table("users", sa.column("id", sa.Integer), sa.column("name", Otherwise()))
            op.bulk_insert(users, [{"id": 5, "name": "x"}])
        """
        tenants.revisions = history(FIRST, body, imports=["", OTHERWISE])
        for _ in range(2):
            url, twin = [await tenants.at("r1", *ROWS) for _ in "ab"]
            report = await tenants.migrate(url)
            tenants.plain(twin)

            (note,) = report.notes
            assert note.startswith("run by Alembic, not replayed: a copy that was replayed has")
            assert "users, column name" in note
            assert dump(url) == dump(twin)

    async def test_what_env_sets_on_its_session_must_be_rendered(
        self, postgres_tenants: Tenants
    ) -> None:
        postgres_tenants.kind, tenants = "generic", postgres_tenants
        tenants.env = SCHEMA_ENV.replace("context.execute(", "print(").replace(
            'context.get_x_argument(as_dictionary=True)["tenant"]', '"public"'
        )
        tenants.revisions = history(FIRST, BODIES["an index"])
        report = await tenants.migrate(await tenants.at("r1"))

        assert report.notes == (
            "run by Alembic, not replayed: env.py's offline mode does not write what it sends: "
            "set search_path to public",
        )

    async def test_a_copy_that_alembic_cannot_migrate_proves_nothing(
        self, tenants: Tenants
    ) -> None:
        tenants.revisions = history(FIRST, BODIES["an index"])
        double = "insert into users (id, name) values (98, 'Ann'), (99, 'Ann')"
        report = await tenants.migrate(await tenants.at("r1", double))
        assert (report.outcome, report.failures[-1].revision) == ("failed", "r2")
        assert "Alembic cannot migrate a copy" in report.notes[0]

        report = await tenants.migrate(await tenants.at("r1", *ROWS))
        assert (report.drive, report.notes) == ("replay", ())

    async def test_a_side_is_removed(self, tenants: Tenants) -> None:
        tenants.revisions = history(FIRST, BODIES["an index"])
        url = await tenants.at("r1", *ROWS)
        await tenants.migrate(url)
        assert beside(url) == []


def beside(url: str) -> list[str]:
    """Databases, or files, that are there on the side of one."""
    place = make_url(url).database or ""
    if url.startswith("sqlite"):
        return [str(each) for each in Path(place).parent.glob(f"{Path(place).name}*side*")]
    sql = f"select datname from pg_database where datname like '{place}%side%'"
    return [row[0] for row in alembic_projects.query(url, sql)]

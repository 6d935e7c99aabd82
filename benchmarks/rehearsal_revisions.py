"""Forty revisions of tables that others read and write meanwhile."""

from __future__ import annotations

SETUP = """
create type kind as enum ('a', 'b', 'c');
create table owners (id integer primary key, name text not null);
create table items (
    id integer primary key, owner integer not null, number integer, name varchar(50),
    note text, made timestamp not null default now(), kind kind not null default 'a',
    constraint some_kind check (number >= 0) not valid);
create table parts (id integer primary key, item integer, constraint of_item
    foreign key (item) references items (id) not valid);
create table old_things (id integer primary key, name text);
insert into owners select n, 'owner ' || n from generate_series(1, {rows} / 10 + 1) n;
insert into items select n, n % ({rows} / 10) + 1, n, 'item ' || n, repeat('note ', 10)
    from generate_series(1, {rows}) n;
insert into parts select n, n from generate_series(1, {rows}) n;
insert into old_things select n, 'old' from generate_series(1, {rows}) n;
create index items_note on items (note);
vacuum analyze;
"""

_ALONE = "with op.get_context().autocommit_block():\n    "


def _sql(*statements: str) -> str:
    return "\n".join(f"op.execute({each!r})" for each in statements)


def _alone(*statements: str) -> str:
    return "with op.get_context().autocommit_block():\n" + "\n".join(
        f"    op.execute({each!r})" for each in statements
    )


_BATCHES = """
step = 2000
last = op.get_bind().execute(sa.text("select max(id) from items")).scalar()
change = sa.text("update items set note = upper(note) where id > :after and id <= :to")
with op.get_context().autocommit_block():
    for after in range(0, last, step):
        op.get_bind().execute(change, {"after": after, "to": after + step})
"""

REVISIONS: dict[str, str] = {
    "add a column": 'op.add_column("items", sa.Column("extra", sa.Text))',
    "add a column with a constant": 'op.add_column("items", sa.Column("extra", sa.Integer, '
    'nullable=False, server_default="7"))',
    "add a column with now()": 'op.add_column("items", sa.Column("extra", sa.DateTime, '
    "server_default=sa.func.now()))",
    "add a column with random()": 'op.add_column("items", sa.Column("extra", sa.Float, '
    "server_default=sa.func.random()))",
    "add an identity column": 'op.add_column("items", sa.Column("extra", sa.BigInteger, '
    "sa.Identity(), nullable=False))",
    "add a stored computed column": 'op.add_column("items", sa.Column("extra", sa.Integer, '
    'sa.Computed("number * 2", persisted=True)))',
    "drop a column": 'op.drop_column("items", "note")',
    "set a default": 'op.alter_column("items", "number", server_default="1")',
    "drop a default": 'op.alter_column("items", "made", server_default=None)',
    "integer to bigint": 'op.alter_column("items", "number", type_=sa.BigInteger)',
    "integer to numeric": 'op.alter_column("items", "number", type_=sa.Numeric)',
    "varchar(50) to varchar(100)": 'op.alter_column("items", "name", type_=sa.String(100))',
    "varchar to text": 'op.alter_column("items", "name", type_=sa.Text)',
    "text to varchar(200)": 'op.alter_column("items", "note", type_=sa.String(200))',
    "an enum made anew": _sql(
        "create type kind_2 as enum ('a', 'b', 'c', 'd')",
        "alter table items alter column kind drop default",
        "alter table items alter column kind type kind_2 using kind::text::kind_2",
        "drop type kind",
    ),
    "a value for an enum": _alone("alter type kind add value 'd'"),
    "SET NOT NULL": 'op.alter_column("items", "number", nullable=False)',
    "DROP NOT NULL": 'op.alter_column("items", "owner", nullable=True)',
    "SET NOT NULL in steps": _alone(
        "alter table items add constraint there check (number is not null) not valid",
        "alter table items validate constraint there",
        "alter table items alter column number set not null",
        "alter table items drop constraint there",
    ),
    "add a check": 'op.create_check_constraint("above", "items", "number > 0")',
    "add a check, NOT VALID": 'op.create_check_constraint("above", "items", "number > 0", '
    "postgresql_not_valid=True)",
    "validate a check": _sql("alter table items validate constraint some_kind"),
    "add a foreign key": 'op.create_foreign_key("f", "items", "owners", ["owner"], ["id"])',
    "add a foreign key, NOT VALID": 'op.create_foreign_key("f", "items", "owners", ["owner"], '
    '["id"], postgresql_not_valid=True)',
    "validate a foreign key": _sql("alter table parts validate constraint of_item"),
    "drop a foreign key": 'op.drop_constraint("of_item", "parts")',
    "add a unique constraint": 'op.create_unique_constraint("one", "items", ["number"])',
    "add a unique constraint in steps": _ALONE
    + 'op.create_index("one", "items", ["number"], unique=True, postgresql_concurrently=True)\n'
    + _sql("alter table items add constraint one_of_each unique using index one"),
    "create an index": 'op.create_index("i", "items", ["name"])',
    "create an index, CONCURRENTLY": _ALONE
    + 'op.create_index("i", "items", ["name"], postgresql_concurrently=True)',
    "drop an index": 'op.drop_index("items_note", "items")',
    "REINDEX": _sql("reindex index items_note"),
    "rename a column": 'op.alter_column("items", "note", new_column_name="remark")',
    "rename a table": 'op.rename_table("items", "things")',
    "a table that refers to it": 'op.create_table("marks", sa.Column("id", sa.Integer, '
    'primary_key=True), sa.Column("item", sa.Integer, sa.ForeignKey("items.id")))',
    "drop a table": 'op.drop_table("old_things")',
    "update every row": _sql("update items set note = upper(note)"),
    "update in batches": _BATCHES,
    "VACUUM": _alone("vacuum items"),
    "VACUUM FULL": _alone("vacuum full items"),
}
"""The body of `upgrade()` by what it does."""

assert len(REVISIONS) == 40, len(REVISIONS)

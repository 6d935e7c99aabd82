"""Twenty-five mistakes in a revision, each on four tables, and the revision without the mistake.

Texts are bodies of `upgrade()` and `downgrade()`: `{t}` is the table's name as a literal of Python,
`{q}` in SQL, `{w}` a word for names of indexes and the like, `{columns}` its columns in SQL.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field

TABLES = {"users": (), "orders": ("year",), "products": (), "Invoice Lines": ()}
"""The names of the tables, and what is in their primary key besides `id`."""

COLUMNS = ("name", "note", "amount", "active", "code", "account_id")


@dataclass(frozen=True)
class Revision:
    """What a revision does, and what the models say after it.

    `without`: columns that the models have no more; `more`: expressions for new ones; `models`:
    code about their table `T`.
    """

    up: str
    down: str
    without: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    models: str = ""
    imports: str = ""
    files: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Texts that are replaced in a file of the project."""
    sibling: bool = False
    """Whether there is another revision with the same parent."""


@dataclass(frozen=True)
class Mistake:
    """A revision with a mistake, and without it; `bad` may have one for each table."""

    name: str
    good: Revision
    bad: Revision | tuple[Revision, ...]
    database: str = "sqlite"


@dataclass(frozen=True)
class Case:
    """A mistake in a table."""

    mistake: Mistake
    table: str

    @property
    def bad(self) -> Revision:
        """The revision with the mistake."""
        bad = self.mistake.bad
        return bad if isinstance(bad, Revision) else bad[list(TABLES).index(self.table)]

    def __str__(self) -> str:
        return f"{self.mistake.name}, in {self.table}"

    @property
    def word(self) -> str:
        """The table's name in other names."""
        return self.table.lower().replace(" ", "_")

    def filled(self, text: str) -> str:
        """A text with the table's names."""
        columns = ", ".join(("id", *TABLES[self.table], *COLUMNS))
        quoted = f'"{self.table}"'
        names = {"{t}": repr(self.table), "{q}": quoted, "{w}": self.word, "{columns}": columns}
        for name, value in names.items():
            text = text.replace(name, value)
        return text


def cases() -> Iterator[Case]:
    """Every mistake in every table."""
    for mistake in MISTAKES:
        yield from (Case(mistake, table) for table in TABLES)


def _batch(*lines: str) -> str:
    return "with op.batch_alter_table({t}) as batch:\n" + textwrap.indent("\n".join(lines), "    ")


def _sql(*statements: str) -> str:
    return "\n".join(f"op.execute('''{each}''')" for each in statements)


def _both(*parts: str) -> str:
    return "\n".join(parts)


def _but(good: Revision, **parts: str) -> Revision:
    """The same, with another body or other models."""
    return Revision(**{**vars(good), **parts})


_WIDTH = "sa.String(50), nullable=False),  # {w}"
"""What the first revision and the models say of the column `name`."""

_INDEX = Revision(
    'op.create_index("ix_{w}_amount", {t}, ["amount"])',
    'op.drop_index("ix_{w}_amount", {t})',
    models='sa.Index("ix_{w}_amount", T.c.amount)',
)
_UNIQUE_INDEX = Revision(
    'op.drop_index("ux_{w}", {t})',
    'op.create_index("ux_{w}", {t}, ["code", "name"], unique=True)',
    models='T.indexes.remove(next(each for each in T.indexes if each.name == "ux_{w}"))',
)
_TYPE = Revision(
    _batch('batch.alter_column("amount", type_=sa.BigInteger(), existing_type=sa.Integer())'),
    _batch('batch.alter_column("amount", type_=sa.Integer(), existing_type=sa.BigInteger())'),
    models="T.c.amount.type = sa.BigInteger()",
)
_DEFAULT = Revision(
    _batch('batch.alter_column("amount", server_default="5", existing_type=sa.Integer())'),
    _batch('batch.alter_column("amount", server_default="0", existing_type=sa.Integer())'),
    models='T.c.amount.server_default = sa.DefaultClause("5")',
)
_NULLABLE = Revision(
    _batch(
        'batch.alter_column("name", nullable=True, existing_type=sa.String(50))',
        'batch.add_column(sa.Column("nick", sa.String(50)))',
    ),
    _batch(
        'batch.drop_column("nick")',
        'batch.alter_column("name", nullable=False, existing_type=sa.String(50))',
    ),
    more=('sa.Column("nick", sa.String(50))',),
    models="T.c.name.nullable = True",
)
_UNIQUE = Revision(
    _both(
        _batch('batch.drop_constraint("uq_{w}_code", type_="unique")'),
        'op.create_index("ix_{w}_code", {t}, ["code"])',
    ),
    _both(
        'op.drop_index("ix_{w}_code", {t})',
        _batch('batch.create_unique_constraint("uq_{w}_code", ["code"])'),
    ),
    models=(
        "T.constraints.remove(next(c for c in T.constraints if c.name == 'uq_{w}_code'))\n"
        'sa.Index("ix_{w}_code", T.c.code)'
    ),
)
_CHECK = Revision(
    _both(
        'op.create_check_constraint("ck_{w}_name", {t}, "length(name) < 100")',
        _batch('batch.add_column(sa.Column("nick", sa.String(50)))'),
    ),
    _both(
        _batch('batch.drop_column("nick")'),
        'op.drop_constraint("ck_{w}_name", {t})',
    ),
    more=('sa.Column("nick", sa.String(50))',),
)
_KEY = "batch.create_foreign_key('fk_{w}', 'accounts', ['account_id'], ['id']%s)"
_FOREIGN_KEY = Revision(
    _batch('batch.drop_constraint("fk_{w}", type_="foreignkey")', _KEY % ", ondelete='SET NULL'"),
    _batch('batch.drop_constraint("fk_{w}", type_="foreignkey")', _KEY % ", ondelete='CASCADE'"),
    models="next(iter(T.foreign_key_constraints)).ondelete = 'SET NULL'",
)
_RENAME = Revision(
    _batch('batch.alter_column("note", new_column_name="remark", existing_type=sa.Text())'),
    _batch('batch.alter_column("remark", new_column_name="note", existing_type=sa.Text())'),
    without=("note",),
    more=('sa.Column("remark", sa.Text)',),
)
_KINDS = 'op.create_table("{w}_kinds", sa.Column("id", sa.Integer, primary_key=True))'
_PARTS = (
    'op.create_table("{w}_parts", sa.Column("id", sa.Integer, primary_key=True), '
    'sa.Column("kind_id", sa.Integer, sa.ForeignKey("{w}_kinds.id"), nullable=False))'
)
_TWO_TABLES = Revision(
    _both(_KINDS, _PARTS),
    'op.drop_table("{w}_parts")\nop.drop_table("{w}_kinds")',
    models="\n".join(
        each.replace("op.create_table(", "sa.Table(").replace(
            ", sa.Column", ", metadata, sa.Column", 1
        )
        for each in (_KINDS, _PARTS)
    ),
)
_ARCHIVE = (
    'sa.Column("code", sa.String(20), primary_key=True), sa.Column("id", sa.Integer), '
    'sa.Column("year", sa.Integer), sa.Column("name", sa.String(50)), sa.Column("note", sa.Text), '
    'sa.Column("amount", sa.Integer), sa.Column("active", sa.Boolean), '
    'sa.Column("account_id", sa.Integer)'
)
_BACK = "INSERT INTO {q} ({columns}) SELECT {columns} FROM {w}_archive"
_ARCHIVED = Revision(
    _both(
        f'op.create_table("{{w}}_archive", {_ARCHIVE})',
        _sql(
            "INSERT INTO {w}_archive ({columns}) SELECT {columns} FROM {q} WHERE NOT active",
            "DELETE FROM {q} WHERE NOT active",
        ),
    ),
    _both(_sql(_BACK), 'op.drop_table("{w}_archive")'),
    models=f'sa.Table("{{w}}_archive", metadata, {_ARCHIVE})',
)
_SEEDED = Revision(
    "keys = {'id': -1, 'year': 2000}\n"
    "table = sa.table({t}, *map(sa.column, ('name', 'code', *keys)))\n"
    "columns = '{columns}'\n"
    "row = {name: value for name, value in keys.items() if name in columns}\n"
    "op.execute(table.insert().values(name='first', code='first', **row))",
    _sql("DELETE FROM {q} WHERE code IN ('first')"),
)
_MOVED = Revision(
    _both(
        _batch('batch.add_column(sa.Column("remark", sa.Text))'),
        _sql("UPDATE {q} SET remark = note"),
        _batch('batch.drop_column("note")'),
    ),
    _both(
        _batch('batch.add_column(sa.Column("note", sa.Text))'),
        _sql("UPDATE {q} SET note = remark"),
        _batch('batch.drop_column("remark")'),
    ),
    without=("note",),
    more=('sa.Column("remark", sa.Text)',),
)
_STEP = Revision(
    _sql("UPDATE {q} SET active = NOT active"), _sql("UPDATE {q} SET active = NOT active")
)
_ENUM = Revision(
    _both(
        'kind = postgresql.ENUM("a", "b", name="{w}_kind", create_type=False)',
        "kind.create(op.get_bind(), checkfirst=True)",
        'op.add_column({t}, sa.Column("kind", kind))',
    ),
    'op.drop_column({t}, "kind")\nop.execute("DROP TYPE {w}_kind")',
    more=('sa.Column("kind", sa.Enum("a", "b", name="{w}_kind"))',),
    imports="from sqlalchemy.dialects import postgresql",
)
_SEQUENCE = Revision(
    _both(
        _sql("CREATE SEQUENCE IF NOT EXISTS {w}_numbers"),
        'op.add_column({t}, sa.Column("number", sa.BigInteger))',
    ),
    'op.drop_column({t}, "number")\nop.execute("DROP SEQUENCE {w}_numbers")',
    more=('sa.Column("number", sa.BigInteger)',),
)
_TRIGGER = Revision(
    _sql(
        "CREATE OR REPLACE FUNCTION {w}_trim() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.code := trim(NEW.code); RETURN NEW; END $$",
        "DROP TRIGGER IF EXISTS {w}_trims ON {q}",
        "CREATE TRIGGER {w}_trims BEFORE INSERT ON {q} FOR EACH ROW EXECUTE FUNCTION {w}_trim()",
    ),
    _sql("DROP TRIGGER {w}_trims ON {q}", "DROP FUNCTION {w}_trim()"),
)
_VIEW = Revision(
    _sql(
        "DROP VIEW IF EXISTS {w}_names",
        "CREATE VIEW {w}_names AS SELECT id, name FROM {q} WHERE active",
    ),
    _sql("DROP VIEW {w}_names"),
)
_NICK = 'sa.Column("nick", sa.String(80), nullable=False, server_default="none")'
_NEW_COLUMN = Revision(
    _both(_batch(f"batch.add_column({_NICK})"), 'op.create_index("ix_{w}_nick", {t}, ["nick"])'),
    _both('op.drop_index("ix_{w}_nick", {t})', _batch('batch.drop_column("nick")')),
    more=(_NICK,),
    models='sa.Index("ix_{w}_nick", T.c.nick)',
)
_RANK = 'sa.Column("rank", sa.Integer, nullable=False%s)'
_FILLED = Revision(
    _batch(f"batch.add_column({_RANK % ', server_default=chr(48)'})"),
    _batch('batch.drop_column("rank")'),
    more=(_RANK % ', server_default="0"',),
)
_POLICY = Revision(
    _sql(
        "ALTER TABLE {q} ENABLE ROW LEVEL SECURITY", "CREATE POLICY {w}_all ON {q} USING (active)"
    ),
    _sql("DROP POLICY {w}_all ON {q}", "ALTER TABLE {q} DISABLE ROW LEVEL SECURITY"),
)

MISTAKES = (
    Mistake("an index is left", _INDEX, _but(_INDEX, down="pass")),
    Mistake(
        "an index comes back, and is not unique",
        _UNIQUE_INDEX,
        _but(_UNIQUE_INDEX, down='op.create_index("ux_{w}", {t}, ["code", "name"])'),
    ),
    Mistake(
        "a column comes back with another type",
        _TYPE,
        _but(
            _TYPE,
            down=_batch(
                'batch.alter_column("amount", type_=sa.Numeric(), existing_type=sa.BigInteger())'
            ),
        ),
    ),
    Mistake(
        "a default is lost",
        _DEFAULT,
        _but(_DEFAULT, down=_DEFAULT.down.replace('server_default="0"', "server_default=None")),
    ),
    Mistake(
        "a default comes back with another value",
        _DEFAULT,
        _but(_DEFAULT, down=_DEFAULT.down.replace('"0"', '"1"')),
    ),
    Mistake(
        "NOT NULL is lost", _NULLABLE, _but(_NULLABLE, down=_batch('batch.drop_column("nick")'))
    ),
    Mistake(
        "a unique constraint is lost",
        _UNIQUE,
        _but(_UNIQUE, down='op.drop_index("ix_{w}_code", {t})'),
    ),
    Mistake(
        "a check constraint is left",
        _CHECK,
        _but(
            _CHECK,
            up=_CHECK.up.replace(
                "op.create",
                "op.execute('ALTER TABLE {q} DROP CONSTRAINT IF EXISTS ck_{w}_name')\nop.create",
            ),
            down=_batch('batch.drop_column("nick")'),
        ),
        "postgresql",
    ),
    Mistake(
        "a foreign key comes back without its ON DELETE",
        _FOREIGN_KEY,
        _but(_FOREIGN_KEY, down=_FOREIGN_KEY.down.replace(", ondelete='CASCADE'", "")),
    ),
    Mistake(
        "a column is renamed back to another name",
        _RENAME,
        _but(
            _RENAME,
            down=_RENAME.down.replace('"note"', '"notes"'),
        ),
    ),
    Mistake(
        "tables are dropped in the wrong order",
        _TWO_TABLES,
        _but(_TWO_TABLES, down='op.drop_table("{w}_kinds")\nop.drop_table("{w}_parts")'),
        "postgresql",
    ),
    Mistake(
        "rows that were moved away do not come back",
        _ARCHIVED,
        _but(_ARCHIVED, down='op.drop_table("{w}_archive")'),
    ),
    Mistake(
        "the way down deletes rows of others",
        _SEEDED,
        _but(_SEEDED, down=_sql("DELETE FROM {q}")),
    ),
    Mistake(
        "values are cut on the way back",
        _MOVED,
        _but(_MOVED, down=_MOVED.down.replace("note = remark", "note = substr(remark, 1, 3)")),
    ),
    Mistake("a data step is not undone", _STEP, _but(_STEP, down="pass")),
    Mistake(
        "an enum is left",
        _ENUM,
        _but(_ENUM, down='op.drop_column({t}, "kind")'),
        "postgresql",
    ),
    Mistake(
        "a sequence is left",
        _SEQUENCE,
        _but(_SEQUENCE, down='op.drop_column({t}, "number")'),
        "postgresql",
    ),
    Mistake(
        "a trigger's function is left",
        _TRIGGER,
        _but(_TRIGGER, down=_sql("DROP TRIGGER {w}_trims ON {q}")),
        "postgresql",
    ),
    Mistake("a view is left", _VIEW, _but(_VIEW, down="pass")),
    Mistake(
        "row-level security is left",
        _POLICY,
        _but(_POLICY, down=_sql("DROP POLICY {w}_all ON {q}")),
        "postgresql",
    ),
    Mistake(
        "the upgrade differs from the models",
        _NEW_COLUMN,
        (
            _but(_NEW_COLUMN, up=_NEW_COLUMN.up.replace("80", "40")),
            _but(_NEW_COLUMN, up=_NEW_COLUMN.up.replace("nullable=False", "nullable=True")),
            _but(
                _NEW_COLUMN,
                up=_batch(f"batch.add_column({_NICK})"),
                down=_batch('batch.drop_column("nick")'),
            ),
            _but(
                _NEW_COLUMN,
                models=_NEW_COLUMN.models + "\nT.append_column(sa.Column('rank', sa.Integer))",
            ),
        ),
    ),
    Mistake("a second head", _INDEX, Revision(**{**vars(_INDEX), "sibling": True})),
    Mistake(
        "a revision that imports only after env.py",
        _INDEX,
        _but(_INDEX, imports="import shop\nNAMES = shop.models.metadata.tables"),
    ),
    Mistake(
        "a released revision is edited",
        _INDEX,
        Revision(
            **{
                **vars(_INDEX),
                "files": {
                    "migrations/versions/r1_.py": (_WIDTH, _WIDTH.replace("50", "60")),
                    "shop/models.py": (_WIDTH, _WIDTH.replace("50", "60")),
                },
            }
        ),
    ),
    Mistake(
        "a NOT NULL column without a default",
        _FILLED,
        Revision(
            **{
                **vars(_FILLED),
                "up": _batch(f"batch.add_column({_RANK % ''})"),
                "more": (_RANK % "",),
            }
        ),
    ),
)

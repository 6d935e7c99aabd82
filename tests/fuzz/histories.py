"""Histories as the fuzzed application deploys them, and what each revision leaves for all to see.

What should be is worked out here from the history alone, without any of automigrator's code.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from hypothesis import strategies as st
from support import alembic_projects

Body = Literal[
    "first", "table", "column", "batch", "data", "count", "commits", "index", "moves", "loses"
]
Shape = Literal["linear", "branch", "merge", "depends", "base"]
Cause = Literal["python", "sql"]

ALWAYS = 1_000_000

FIRST = """
op.create_table(
    "notes",
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("token", sa.String(20), nullable=False),
    sa.Column("sum", sa.String(20), nullable=False),
    sa.Column("times", sa.Integer, nullable=False),
)
op.create_index("one_token", "notes", ["token"], unique=True)
op.create_table(
    "pages",
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("token", sa.String(20), nullable=False),
    sa.Column("sum", sa.String(20), nullable=False),
    sa.Column("note_id", sa.Integer, sa.ForeignKey("notes.id", ondelete="CASCADE")),
)
op.create_table(
    "diary",
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("token", sa.String(20), nullable=False),
    sa.Column("sum", sa.String(20), nullable=False),
)
op.create_table("counter", sa.Column("n", sa.Integer, nullable=False))
op.execute("INSERT INTO counter VALUES (0)")
"""
_BATCH = """
always = op.get_bind().dialect.name == "sqlite"
with op.batch_alter_table("notes", recreate="always" if always else "never") as notes:
    notes.add_column(sa.Column("c_ID", sa.String(9), server_default="good"))
"""
_DATA = """
op.create_table("t_ID", sa.Column("id", sa.Integer), sa.Column("word", sa.String(20)))
op.execute("INSERT INTO t_ID SELECT id, upper(token) FROM notes")
"""
_COMMITS = """
op.execute("CREATE TABLE IF NOT EXISTS t_ID (id INTEGER)")
with op.get_context().autocommit_block():
    op.execute("CREATE TABLE IF NOT EXISTS a_ID (id INTEGER)")
"""
_INDEX = """
concurrently = "CONCURRENTLY" if op.get_bind().dialect.name == "postgresql" else ""
with op.get_context().autocommit_block():
    op.execute(f"CREATE INDEX {concurrently} IF NOT EXISTS i_ID ON notes (times)")
op.execute("CREATE TABLE IF NOT EXISTS t_ID (id INTEGER)")
"""
_MOVES = """
op.create_table(
    "t_ID",
    sa.Column("id", sa.Integer),
    sa.Column("token", sa.String(20)),
    sa.Column("sum", sa.String(20)),
)
if op.get_bind().dialect.name == "postgresql":
    # what somebody writes between the two statements would be deleted and not copied
    op.execute("LOCK TABLE diary IN SHARE ROW EXCLUSIVE MODE")
op.execute("INSERT INTO t_ID SELECT id, token, sum FROM diary WHERE id % 3 = 0")
op.execute("DELETE FROM diary WHERE id % 3 = 0")
"""
_LOSES = """
with op.get_context().autocommit_block():
    op.execute("DELETE FROM diary WHERE id % 2 = 0")
op.execute("CREATE TABLE IF NOT EXISTS t_ID (id INTEGER)")
"""
_BODIES: Mapping[Body, str] = {
    "first": FIRST,
    "table": 'op.create_table("t_ID", sa.Column("id", sa.Integer, primary_key=True))',
    "column": 'op.add_column("notes", sa.Column("c_ID", sa.Integer))',
    "batch": _BATCH,
    "data": _DATA,
    "count": 'op.execute("UPDATE notes SET times = times + 1")\n'
    'op.execute("UPDATE counter SET n = n + 1")',
    "commits": _COMMITS,
    "index": _INDEX,
    "moves": _MOVES,
    "loses": _LOSES,
}
_COMMITTING: frozenset[Body] = frozenset({"commits", "index", "loses"})
BASE = frozenset({"notes", "pages", "diary", "counter"})
COLUMNS = frozenset({"id", "token", "sum", "times"})


@dataclass(frozen=True)
class Failing:
    """Fails in each of its first `runs` runs, or, with `rows`, wherever there are notes."""

    runs: int
    cause: Cause
    late: bool
    rows: bool = False


@dataclass(frozen=True)
class Revision:
    """`down` are those it follows, `depends_on` others that must have been applied before."""

    id: str
    down: tuple[str, ...]
    body: Body
    failing: Failing | None = None
    depends_on: tuple[str, ...] = ()

    @property
    def commits(self) -> bool:
        """Whether it commits in its middle."""
        return self.body in _COMMITTING

    @property
    def tables(self) -> frozenset[str]:
        if self.body == "first":
            return BASE
        if self.body == "commits":
            return frozenset({f"t_{self.id}", f"a_{self.id}"})
        named = self.body in ("table", "data", "index", "moves", "loses")
        return frozenset({f"t_{self.id}"} if named else ())

    @property
    def columns(self) -> frozenset[str]:
        return frozenset({f"c_{self.id}"} if self.body in ("column", "batch") else ())

    def mended(self) -> Revision:
        body: Body = "table" if self.body == "loses" else self.body
        if self.body == "loses":
            body = "commits"  # half of it may be there
        return replace(self, failing=None, body=body)

    def write(self, folder: Path, tally: Path) -> None:
        """Write its file; `tally` counts how often it has run."""
        lines = [f"with open({str(tally)!r}, 'ab') as tally:\n    tally.write(b'.')"]
        lines.append("    runs = tally.tell()")
        body = _BODIES[self.body].replace("ID", self.id).strip()
        if self.failing is None:
            lines.append(body)
        else:
            if self.failing.rows:
                notes = 'sa.text("SELECT count(*) FROM notes")'
                lines.append(f"broken = op.get_bind().execute({notes}).scalar()")
            else:
                lines.append(f"broken = runs <= {self.failing.runs}")
            raised = "raise RuntimeError('broken')"
            if self.failing.cause == "sql":
                raised = "op.execute('SELECT * FROM absent')"
            check = f"if broken:\n    {raised}"
            lines += [body, check] if self.failing.late else [check, body]
        alembic_projects.revision(
            folder,
            self.id,
            self.down if len(self.down) > 1 else next(iter(self.down), None),
            depends_on=self.depends_on or None,
            upgrade="\n".join(lines),
        )


@dataclass(frozen=True)
class Drawn:
    """A revision to come, before it is known what it follows."""

    shape: Shape
    body: Body
    failing: Failing | None
    choice: int


@dataclass
class History:
    """The revisions that the code has, in the order in which they were written."""

    revisions: list[Revision] = field(default_factory=list)

    def __iter__(self) -> object:
        return iter(self.revisions)

    @property
    def ids(self) -> set[str]:
        return {each.id for each in self.revisions}

    def __getitem__(self, id: str) -> Revision:
        return next(each for each in self.revisions if each.id == id)

    def with_ancestors(self, heads: Collection[str]) -> set[str]:
        """Every revision that a database at these heads has."""
        found: set[str] = set()
        todo = list(heads)
        while todo:
            id = todo.pop()
            if id not in found:
                found.add(id)
                todo += [*self[id].down, *self[id].depends_on]
        return found

    @property
    def rows(self) -> set[str]:
        """The version rows of a database that lacks nothing."""
        below = {id for each in self.revisions for id in (*each.down, *each.depends_on)}
        return self.ids - below

    def pending(self, heads: Collection[str]) -> set[str]:
        return self.ids - self.with_ancestors(heads)

    def grown(self, drawn: Drawn, id: str) -> Revision:
        """The revision that is written next."""
        if not self.revisions:
            return Revision(id, (), "first")
        rows, ids = sorted(self.rows), [each.id for each in self.revisions]
        one = ids[drawn.choice % len(ids)]
        down: tuple[str, ...] = (rows[drawn.choice % len(rows)],)
        depends_on: tuple[str, ...] = ()
        body = drawn.body
        match drawn.shape:
            case "branch":
                down = (one,)
            case "merge":
                down = tuple(rows)
            case "depends" if one not in self.with_ancestors(down):
                depends_on = (one,)
            case "base":
                down, body = (), "table"
        if body == "first":
            body = "table"
        if "r1" not in self.with_ancestors([*down, *depends_on]):
            body = "table"  # there may be no notes yet
        failing = drawn.failing
        if body == "loses":
            failing = Failing(ALWAYS, "python", late=True)
        if failing is not None and failing.rows and body == "table":
            failing = replace(failing, rows=False)  # as above
        return Revision(id, down, body, failing, depends_on)


def effects(history: History, heads: Collection[str]) -> tuple[set[str], set[str], int]:
    """Tables, columns of notes, and how often its rows were counted, of a database at `heads`."""
    there = [history[id] for id in history.with_ancestors(heads)]
    tables = {table for each in there for table in each.tables}
    columns = {column for each in there for column in each.columns}
    return tables, columns, sum(each.body == "count" for each in there)


failings = st.one_of(
    st.none(),
    st.none(),
    st.none(),
    st.builds(
        Failing,
        runs=st.sampled_from([1, 1, 1, 2, ALWAYS]),
        cause=st.sampled_from(["python", "sql"]),
        late=st.booleans(),
        rows=st.booleans(),
    ),
)
_shapes: Sequence[Shape] = ["linear", "linear", "linear", "branch", "merge", "depends", "base"]
_bodies: Sequence[Body] = [each for each in _BODIES if each != "first"]
drawn_revisions = st.builds(
    Drawn,
    shape=st.sampled_from(_shapes),
    body=st.sampled_from(_bodies),
    failing=failings,
    choice=st.integers(0, 7),
)
deployments = st.lists(drawn_revisions, min_size=1, max_size=3)
deployments_or_none = st.one_of(st.just(()), deployments, deployments)

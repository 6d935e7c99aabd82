"""What a rehearsal measured: what each statement did, and who would have waited for it."""

from __future__ import annotations

from typing import Any, Literal

from automigrator.frozen import Frozen, as_json
from automigrator.printable import escaped, in_a_line, joined

Waits = Literal["reads", "writes", "rows"]

"""Who waits for a lock: readers, writers, or those who write the same rows."""

Level = Literal["note", "warning", "error"]

LEVELS: tuple[Level, ...] = ("note", "warning", "error")

"""From mild to grave; `error`: a limit of the rehearsal is exceeded."""

SHOWN_SQL = 100
"""Characters of a statement that a line of text shows."""


class _Record(Frozen):
    def to_dict(self) -> dict[str, Any]:
        """Every field by its name, as JSON types."""
        return {name: as_json(value) for name, value in vars(self).items()}


class LockHeld(_Record):
    """A lock on a relation that was there before the revisions, and how long it was held."""

    relation: str
    """The table's name; an index counts as its table. On SQLite the database."""
    mode: str
    """The strongest, as `pg_locks` names it."""
    blocks: tuple[Waits, ...]
    """Who waits for it."""
    held_s: float
    """Seconds from the beginning of the statement that took it to the end of its transaction."""


class StatementMeasured(_Record):
    """What one statement of a revision did to the copy."""

    revision: str
    """The revision's id."""
    sql: str
    """The statement, without its parameters."""
    seconds: float
    """How long it ran; of all its repetitions together."""
    times: int = 1
    """How often it ran in a row."""
    rows: int = 0
    """Rows that it wrote to tables that were there before; triggers and cascades count, too."""
    log_bytes: int = 0
    """Bytes that the server's log (WAL) grew meanwhile; others' writes count, too."""
    rewritten: tuple[str, ...] = ()
    """Tables whose every row was written anew."""
    scanned: tuple[str, ...] = ()
    """Tables that were read from their beginning to their end."""
    locks: tuple[LockHeld, ...] = ()
    """The locks that its transaction did not hold before."""
    file: str | None = None
    """The revision's file."""
    line: int | None = None
    """The line of it that ran the statement."""
    autocommit: bool = False
    """Whether it ran outside a transaction."""
    observed: bool = True
    """Whether its locks could be seen; one that runs outside a transaction may be too short."""
    lock_timeout_s: float = 0.0
    """Seconds that it waits for a lock before it gives up; 0: without a limit."""


class RevisionMeasured(_Record):
    """What one revision cost on the copy, if it were the last one to run."""

    revision: str
    """The revision's id."""
    seconds: float
    """How long all revisions took up to its end."""
    block_s: float
    """The longest time that anybody would have waited for one of the locks, up to its end."""
    growth: int
    """Bytes that the database grew by up to its end."""
    statements: tuple[StatementMeasured, ...] = ()
    """What it ran, in order."""


class RelationUse(_Record):
    """How the application uses a table that a revision would lock."""

    relation: str
    """The table's name."""
    size: int
    """Bytes, with indexes."""
    reads_per_s: float | None = None
    """Scans of it and of its indexes per second; None where nothing counts them."""
    writes_per_s: float | None = None
    """Rows written per second; None where nothing counts them."""
    oldest_s: float = 0.0
    """The age in seconds of the oldest open transaction that has used it."""
    oldest_writer_s: float = 0.0
    """The age in seconds of the oldest open transaction that may have written to it."""
    scale: float = 1.0
    """How many times larger it is than in the copy."""


class Finding(_Record):
    """One thing that a person should know before these revisions run."""

    kind: str
    """As `docs/rehearsal.md` lists them: `blocks-reads`, say."""
    level: Level
    revision: str
    message: str
    """What would happen, in a sentence."""
    advice: str = ""
    """What to do instead."""
    file: str | None = None
    line: int | None = None
    sql: str | None = None

    def __str__(self) -> str:
        where = f" ({self.file}:{self.line})" if self.file and self.line else ""
        lines = [f"{self.level} {self.kind} in {self.revision}{where}: {self.message}"]
        if self.sql:
            lines.append(f"  {shortened(self.sql)}")
        if self.advice:
            lines.append(f"  better: {self.advice}")
        return joined(lines)


class Measurement(_Record):
    """What a rehearsal measured of the pending revisions, in order."""

    revisions: tuple[RevisionMeasured, ...] = ()
    uses: tuple[RelationUse, ...] = ()
    """How the application uses what would be locked; empty where it could not be asked."""
    window_s: float = 0.0
    """Seconds over which the uses were counted; 0: since the server counts."""
    transactions_per_s: float | None = None
    """Of the application's database; None where nothing counts them."""
    findings: tuple[Finding, ...] = ()
    """What a person should know, in the order of the statements."""
    measuring_s: float = 0.0
    """Seconds that the measuring itself took; the other times are without them."""

    @property
    def level(self) -> Level | None:
        """The gravest of the findings; None where there is none."""
        return max((each.level for each in self.findings), key=LEVELS.index, default=None)

    @property
    def summary(self) -> str:
        """What a person should know of it at a start: the sums, and the grave findings."""
        if not self.revisions:
            return "nothing ran"
        last = self.revisions[-1]
        grave = [each for each in self.findings if each.level != "note"]
        told = f"revisions took {last.seconds:.3f} s, others would wait for {last.block_s:.3f} s"
        return joined([f"{told} at most", *(line for e in grave for line in str(e).splitlines())])

    def __str__(self) -> str:
        lines = []
        for each in self.revisions:
            lines.append(
                f"{each.revision}: {each.seconds:.3f} s, blocks for {each.block_s:.3f} s, "
                f"grows by {each.growth} bytes"
            )
        lines += [line for each in self.findings for line in str(each).splitlines()]
        return joined(lines)


def shortened(sql: str) -> str:
    """A statement in a line."""
    text = escaped(in_a_line(sql))
    return text if len(text) <= SHOWN_SQL else text[: SHOWN_SQL - 1] + "…"

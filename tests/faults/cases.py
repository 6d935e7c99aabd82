"""What is killed: strategies with a history, and what the last start must end in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from notes_application import BROKEN

End = Literal["old", "migrated", "fresh"]
"""`fresh`: migrated and empty, and the old rows set aside."""

WORDS = """
op.create_table("words", sa.Column("id", sa.Integer, primary_key=True), sa.Column("word", sa.Text))
op.execute("INSERT INTO words SELECT id, upper(text) FROM notes")
"""
COUNTED = """
with op.get_context().autocommit_block():
    op.execute("UPDATE notes SET times = times + 1 WHERE id < 300")
    op.execute("UPDATE notes SET times = times + 1 WHERE id >= 300")
"""
"""Committed in halves: killed between them, or run twice, it leaves what nobody wanted."""
SET = COUNTED.replace("times + 1", "8")
"""May be killed at any moment and run again, as it must where there is no copy to go back to."""
RECREATED = """
with op.batch_alter_table("notes", recreate=RECREATE) as notes:
    notes.add_column(sa.Column("mood", sa.String(9), server_default="good"))
""".replace("RECREATE", '"always" if op.get_bind().dialect.name == "sqlite" else "never"')
LOST = """
with op.get_context().autocommit_block():
    op.execute("DELETE FROM pages WHERE id >= 300")
    op.execute("DELETE FROM notes WHERE id >= 300")
    op.execute("UPDATE notes SET times = times + 1")
"""
UNIQUE = """
op.execute("UPDATE notes SET times = times + 1")
op.create_index("one_of_each", "notes", ["text"], unique=True)
"""
"""Fails on the old rows, not on an empty database."""

COPIED = ("backup-restore", {"snapshot": "always", "disconnect_others": True})


@dataclass(frozen=True)
class Case:
    """`one_transaction` is whether env.py asks for one over all revisions; else one for each."""

    name: str
    strategy: str
    """The row of the table that its kills are counted in."""
    recovery: Sequence[Any]
    upgrades: Sequence[str]
    end: End
    outcomes: frozenset[str]
    """What the last start may say."""
    one_transaction: bool = False
    share: float = 1.0
    """Of the strategy's kills at random moments."""


ARRIVED = frozenset({"migrated", "current"})
REPLACED = frozenset({"recovered", "current"})

CASES = [
    Case(
        "restore, migrated",
        "backup-restore",
        [COPIED],
        [WORDS, COUNTED, RECREATED],
        "migrated",
        ARRIVED,
        share=0.5,
    ),
    Case(
        "restore, failing",
        "backup-restore",
        [COPIED],
        [WORDS, LOST + BROKEN],
        "old",
        frozenset({"failed"}),
        share=0.5,
    ),
    Case("purge", "purge", ["purge"], [WORDS, UNIQUE, RECREATED], "fresh", REPLACED),
    Case(
        "restore, then purge",
        "all three",
        [COPIED, "purge", "log-and-continue"],
        [WORDS, LOST + UNIQUE, RECREATED],
        "fresh",
        REPLACED,
        share=0.5,
    ),
    Case(
        "all three, nothing helps",
        "all three",
        [COPIED, "purge", "log-and-continue"],
        [WORDS, LOST + BROKEN],
        "old",
        frozenset({"degraded"}),
        share=0.5,
    ),
    Case(
        "log, migrated",
        "log-and-continue",
        ["log-and-continue"],
        [WORDS, SET, RECREATED],
        "migrated",
        ARRIVED,
        share=0.5,
    ),
    Case(
        "log, failing",
        "log-and-continue",
        ["log-and-continue"],
        [WORDS, UNIQUE, RECREATED],
        "old",
        frozenset({"degraded"}),
        one_transaction=True,
        share=0.5,
    ),
]

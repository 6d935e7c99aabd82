"""What is killed: strategies with a history, and what the last start must end in."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from support.notes_application import BROKEN

End = Literal["old", "migrated", "fresh", "emptied"]
"""`fresh`: migrated and empty, and the old rows set aside; `emptied`: without them."""

Backend = Literal["sqlite", "postgresql"]

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
DUMPED = ("backup-restore", {**COPIED[1], "copy": "dump"})
DELETING = ("purge", {"set_aside": False})


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
    on: frozenset[Backend] = frozenset({"sqlite", "postgresql"})
    apart: bool = False
    """Whether copies are put into a folder of their own."""

    def strategies(self, copies: Path) -> Sequence[Any]:
        """What a start is given as `recovery`; `copies` is the folder for them."""
        if not self.apart:
            return self.recovery
        return [
            (each[0], {**each[1], "folder": str(copies)}) if each in (COPIED, DUMPED) else each
            for each in self.recovery
        ]


ARRIVED = frozenset({"migrated", "current"})
REPLACED = frozenset({"recovered", "current"})

_DEFAULT = [
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

_BY_NAME = {case.name: case for case in _DEFAULT}


def _otherwise(name: str, **changes: Any) -> Case:
    """A case of the default options with others."""
    strategy = changes["strategy"].partition(", ")[2]
    return replace(_BY_NAME[name], name=f"{name}, {strategy}", **changes)


_IN_A_FOLDER = {"strategy": "backup-restore, own folder", "on": frozenset({"sqlite"})}
_BY_DUMP = {"strategy": "backup-restore, dump", "on": frozenset({"postgresql"})}

CASES = [
    *_DEFAULT,
    _otherwise("restore, migrated", **_IN_A_FOLDER, apart=True),
    _otherwise("restore, failing", **_IN_A_FOLDER, apart=True),
    _otherwise("purge", strategy="purge, deleting", recovery=[DELETING], end="emptied", share=0.5),
    Case(
        "purge in vain, deleting",
        "purge, deleting",
        [DELETING],
        [WORDS, UNIQUE, RECREATED, BROKEN],
        "old",
        frozenset({"failed"}),
        one_transaction=True,
        share=0.5,
    ),
]
if shutil.which("pg_dump"):
    CASES += [
        _otherwise("restore, migrated", **_BY_DUMP, recovery=[DUMPED], apart=True),
        _otherwise("restore, failing", **_BY_DUMP, recovery=[DUMPED], apart=True),
    ]

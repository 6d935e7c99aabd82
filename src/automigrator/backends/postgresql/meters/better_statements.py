"""What to write instead of a statement that others would wait for.

Nothing is decided by it: a statement's text is read to choose the words of an advice alone.
"""

from __future__ import annotations

import re

from automigrator.measurement import StatementMeasured

_BATCHES = (
    "write in batches of some thousand rows, each in a transaction of its own (autocommit_block), "
    "so that nobody waits for longer than one batch"
)

_ALWAYS = (
    (
        r"\breindex\b(?!.*\bconcurrently\b)",
        "REINDEX ... CONCURRENTLY in an autocommit_block lets others read and write meanwhile",
    ),
    (
        r"\bdrop\s+index\b(?!\s+concurrently)",
        "DROP INDEX CONCURRENTLY in an autocommit_block waits without keeping others waiting",
    ),
    (
        r"\b(vacuum\s*\(?.*\bfull\b|cluster)\b",
        "plain VACUUM lets others read and write; pg_repack rebuilds a table beside them",
    ),
)

_WHERE_ROWS_ARE_READ_OR_WRITTEN = (
    (
        r"\bcreate\s+(unique\s+)?index\b(?!\s+concurrently)",
        "build it with CREATE INDEX CONCURRENTLY in an autocommit_block "
        "(postgresql_concurrently=True), which lets others write meanwhile",
    ),
    (
        r"\b(foreign\s+key|check\s*\()(?!.*\bnot\s+valid\b)",
        "add it NOT VALID (postgresql_not_valid=True), then VALIDATE CONSTRAINT in a later "
        "transaction, which reads the rows while others write",
    ),
    (
        r"\badd\s+(constraint\s+\S+\s+)?(unique|primary\s+key)\b(?!\s+using\b)",
        "build the unique index with CREATE UNIQUE INDEX CONCURRENTLY, then ADD CONSTRAINT ... "
        "USING INDEX, which is quick",
    ),
    (
        r"\bset\s+not\s+null\b",
        "add CHECK (column IS NOT NULL) NOT VALID, VALIDATE it in a later transaction, and then "
        "SET NOT NULL, which believes the check and reads no row",
    ),
    (
        r"\badd\s+column\b",
        "add the column without a default that is computed for each row (a constant default needs "
        "no rewrite), set the default for new rows, and fill the old rows in batches",
    ),
    (
        r"\btype\b",
        "add a column of the new type, fill it in batches while a trigger keeps it up to date, and "
        "then let the application use it; a change of type that keeps the stored values (varchar "
        "to text, a larger varchar) rewrites nothing",
    ),
)

_LAST = "it is quick by itself: run it in a transaction of its own, or as the last statement of one"

_QUEUE = (
    "let the statement give up after a moment (SET lock_timeout = '500ms') and try again, or end "
    "the long transactions first"
)


def advice(kind: str, statement: StatementMeasured) -> str:
    """Say what to write instead of a statement, about a finding of a kind."""
    if kind == "queues":
        return _QUEUE
    rows = kind in ("rewrites", "scans")
    others: tuple[tuple[str, str], ...] = _WHERE_ROWS_ARE_READ_OR_WRITTEN if rows else ()
    for pattern, better in (*_ALWAYS, *others):
        if re.search(pattern, statement.sql, re.IGNORECASE | re.DOTALL):
            return better
    if kind == "locks-rows":
        return _BATCHES
    if kind in ("blocks-reads", "blocks-writes"):
        return _LAST
    return ""

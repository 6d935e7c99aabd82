"""Advice on revisions that existing rows or objects refuse, the same for every database."""

from __future__ import annotations

from collections.abc import Sequence

from automigrator.errors import JudgedError

DUPLICATES = (
    "rows that are there already are not unique as the revision wants them: find them with GROUP "
    "BY and HAVING count(*) > 1, merge or delete them in this revision, before the constraint, or "
    "by hand, and start again"
)

NO_VALUE = (
    "rows that are there already have no value for it: let the revision add the column as "
    "nullable or with server_default=, fill it, and set NOT NULL last"
)

ORPHANS = (
    "rows refer to rows that are not there: find them with WHERE NOT EXISTS, repair or delete them "
    "in this revision, before the constraint, or by hand, and start again"
)

VIOLATES = (
    "rows that are there already violate the constraint: find them with WHERE NOT (its condition), "
    "correct them in this revision, before the constraint, or by hand, and start again"
)

EXCLUDE_EACH_OTHER = (
    "rows that are there already exclude each other: find them by joining the table to itself on "
    "the constraint's operators, correct them in this revision, before the constraint, or by hand, "
    "and start again"
)

NOT_FITTING = (
    "values that are there already do not fit what the revision makes of them: correct them in "
    "this revision, before the change, or by hand, or let it convert them"
)

THERE_ALREADY = (
    "what the revision makes is there already: find out who made it (by hand, create_all, half of "
    "an earlier attempt). Drop it if it is debris; or else stamp or change the revision"
)

NOT_THERE = (
    "the revision and the database disagree about what is there: look for what was changed by "
    "hand, or repair the revision"
)

OUTSIDE = (
    "it cannot be done inside a transaction, and a revision runs in one: put it alone into `with "
    "op.get_context().autocommit_block():`, which commits what came before"
)


def missing_beside_its_copies(
    what: str, copies: Sequence[str], put_back: str, begin_anew: str
) -> JudgedError:
    """Make the error of a database that is not there, where copies of it are.

    An empty one in its place would pass for migrated. `put_back` and `begin_anew` say how.
    """
    return JudgedError(
        "unreachable",
        f"{what} does not exist, and beside it there {'is' if len(copies) == 1 else 'are'} "
        f"{', '.join(copies)}, which automigrator made of it: the database was renamed, moved or "
        "deleted by hand; no empty one was created, and nothing was changed",
        f"bring the database back under its name; if it is lost, {put_back}. If an empty one is "
        f"meant, {begin_anew}",
    )


def missing_beside_its_log(what: str, log: str) -> JudgedError:
    """Make the error of a database that is not there, where its log is, with rows of it."""
    return JudgedError(
        "unreachable",
        f"{what} does not exist, and {log}, which belongs to it and may hold rows that are "
        "committed, does: the database was renamed, moved or deleted without it; no empty one was "
        "created, and nothing was changed",
        "bring the database back beside its log, under its name; if both are lost for good, move "
        "the log away",
    )

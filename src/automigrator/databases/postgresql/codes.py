"""The SQLSTATE of an error, whichever driver raised it."""

from __future__ import annotations

import re

from automigrator.databases.chain import chain

NO_DATABASE = "3D000"
NO_PRIVILEGE = "42501"
DISK_FULL = "53100"
TOO_MANY = "53300"
FAILED_TRANSACTION = "25P02"

PSYCOPG = ("psycopg", "psycopg2")
# the last resort, for a connection that an env.py opens: psycopg has no code for a refused one,
# only the server's words. English ones; for connections of our own see `second_opinion`
_BY_WORDS: tuple[tuple[str, str], ...] = (
    (r'database ".*" does not exist', NO_DATABASE),
    (r"password authentication failed", "28P01"),
    (r'role ".*" does not exist|not permitted to log in|pg_hba\.conf|authentication', "28000"),
    (r"permission denied for database", NO_PRIVILEGE),
    (r"too many (?:clients|connections)|connection slots", "53300"),
    (r"(?:starting up|shutting down|recovery mode|not yet accepting)", "57P03"),
)


def code_of(error: BaseException) -> str | None:
    """The first SQLSTATE in the chain, None when no server answered.

    A transaction that had failed already only hides what failed in it, and is passed over.
    """
    errors = list(chain(error))
    codes = (own_code(each) for each in errors)
    found = next((code for code in codes if code not in (None, FAILED_TRANSACTION)), None)
    return found or next(filter(None, map(_guessed, errors)), None)


def own_code(error: BaseException) -> str | None:
    """The SQLSTATE that this very error carries."""
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return code if isinstance(code, str) else None


def _guessed(error: BaseException) -> str | None:
    words = str(error)
    if type(error).__module__.split(".")[0] not in PSYCOPG or "FATAL" not in words:
        return None
    return next((code for pattern, code in _BY_WORDS if re.search(pattern, words)), None)

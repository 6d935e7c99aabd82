"""The SQLSTATE of an error, whichever driver raised it."""

from __future__ import annotations

import re

from automigrator.databases.chain import chain

NO_DATABASE = "3D000"
NO_PRIVILEGE = "42501"
FAILED_TRANSACTION = "25P02"

# psycopg gives no code for a connection that failed, only the server's words
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
    for each in chain(error):
        code = _own_code(each)
        if code is not None and code != FAILED_TRANSACTION:
            return code
    return None


def _own_code(error: BaseException) -> str | None:
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if isinstance(code, str):
        return code
    words = str(error)
    if type(error).__module__.split(".")[0] in ("psycopg", "psycopg2") and "FATAL" in words:
        return next((code for pattern, code in _BY_WORDS if re.search(pattern, words)), None)
    return None

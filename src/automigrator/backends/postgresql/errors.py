"""What kind of failure PostgreSQL's SQLSTATE says it was."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from contextlib import suppress
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
from sqlalchemy.exc import DBAPIError

from automigrator.backends import advice
from automigrator.backends.access import Access
from automigrator.errors import AutomigratorError, LockTimeoutError
from automigrator.failure import FailureKind
from automigrator.support.error_chain import chain

NO_DATABASE = "3D000"

NO_PRIVILEGE = "42501"

DISK_FULL = "53100"

TOO_MANY = "53300"

FAILED_TRANSACTION = "25P02"

_BY_CODE: dict[str, FailureKind] = {
    "3D000": "unreachable",
    "53300": "unreachable",
    "57P01": "unreachable",
    "57P02": "unreachable",
    "57P03": "unreachable",
    "57P05": "unreachable",
    NO_PRIVILEGE: "auth",
    "55P03": "lock-timeout",
    "40P01": "lock-timeout",
    "40001": "lock-timeout",
    "57014": "timeout",
    "25P03": "timeout",
    "25P04": "timeout",
    "53100": "disk-full",
    "25006": "read-only",
    "XX001": "corrupt",
    "XX002": "corrupt",
}

_BY_CLASS: dict[str, FailureKind] = {"08": "unreachable", "28": "auth"}

_NETWORK = frozenset(
    {
        errno.EADDRNOTAVAIL,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENOENT,  # a socket that is not there yet
        errno.ETIMEDOUT,
    }
)

# the last: of several hosts none is the primary, or what else the URL asks for
_ASYNCPG_UNANSWERED = {"InterfaceError", "InternalClientError", "TargetServerAttributeNotMatched"}


class ServerError(AutomigratorError):
    """Raised when the server, or this role's rights on it, will not do; nothing was changed."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind


def classify(error: BaseException) -> FailureKind | None:
    """The kind by the first SQLSTATE in the chain, or by what the network said; else None."""
    errors = list(chain(error))
    for each in errors:
        if isinstance(each, ServerError):
            return each.kind
        if isinstance(each, LockTimeoutError):
            return "lock-timeout"
    code = code_of(error)
    if code is not None and code in _BY_CODE:
        return _BY_CODE[code]
    if code is not None and code[:2] in _BY_CLASS:
        return _BY_CLASS[code[:2]]
    if any(isinstance(each, DBAPIError) and each.connection_invalidated for each in errors):
        return "unreachable"
    if code is None and any(_never_answered(each) for each in errors):
        return "unreachable"
    return None


def _never_answered(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError | socket.gaierror | ssl.SSLError):
        return True
    if isinstance(error, OSError):
        # a file that a revision could not open has a name; asyncpg joins several failures
        # into an error without a number
        return error.filename is None and (error.errno in _NETWORK or error.errno is None)
    driver = type(error).__module__.split(".")[0]
    if driver == "asyncpg":
        return type(error).__name__ in _ASYNCPG_UNANSWERED
    # psycopg's has no code when it is not about a statement
    names = {each.__name__ for each in type(error).__mro__}
    return driver in PSYCOPG and "OperationalError" in names


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


_AGAIN = "start again: nothing of the attempt was committed"

_ADVICE_BY_CODE: dict[str, str] = {
    "3D000": "create the database, or leave Target(create=False) out; check the URL's name of it",
    "53300": (
        "the server has no connection left for this role: end some (pg_stat_activity), or raise "
        "max_connections, the role's or the database's connection limit"
    ),
    "57P03": (
        "the server is starting, stopping or recovering: wait for it and start again, or raise "
        "Target(connect_timeout=)"
    ),
    "28P01": "check the password in the URL, and that it is this server's",
    "42501": (
        "give the role the right that is missing (GRANT, ALTER ... OWNER TO), or name a role that "
        "has it with Target(migrate_with=...)"
    ),
    "55P03": (
        "end the session that holds the lock (pg_stat_activity), or start again when it is gone; "
        "Target(retry_timeout=) says how long it is tried"
    ),
    "40P01": (
        f"{_AGAIN}. If it happens again, let the revision lock its tables in the order in which "
        "the application does"
    ),
    "40001": f"{_AGAIN}. If it happens again, stop what writes to the same rows meanwhile",
    "57014": (
        "raise statement_timeout for the migrating role (ALTER ROLE ... SET), or split the "
        "revision; if nobody set it, somebody cancelled the statement"
    ),
    "53100": (
        "free space on the server's disk (data, pg_wal, the tablespace, temporary files), then "
        "start again"
    ),
    "25006": (
        "point the target at the primary; if it is one, look at default_transaction_read_only of "
        "the server, the database and the role"
    ),
    "XX001": (
        "stop writing to this server, copy its data directory, and look at its disk; then restore "
        "a backup"
    ),
    "23505": advice.DUPLICATES,
    "23502": advice.NO_VALUE,
    "23503": advice.ORPHANS,
    "23514": advice.VIOLATES,
    "23P01": advice.VIOLATES,
    **dict.fromkeys(("42P07", "42701", "42710", "42P06", "42723"), advice.THERE_ALREADY),
    **dict.fromkeys(("42P01", "42703", "42704", "3F000"), advice.NOT_THERE),
}

_ADVICE_BY_CLASS = {"22": advice.NOT_FITTING}


def advise(error: BaseException) -> str:
    """A sentence for a person; empty where the kind's own is as good."""
    code = code_of(error) or ""
    return _ADVICE_BY_CODE.get(code) or _ADVICE_BY_CLASS.get(code[:2], "")


_TIMEOUT_S = 5.0

_SAME = ("host", "port", "user", "password")


async def with_code(error: Exception, access: Access, database: str) -> None:
    """Put what asyncpg is answered behind `error`, where that has no code of its own."""
    errors = list(chain(error))
    if any(own_code(each) is not None for each in errors):
        return
    if not any(type(each).__module__.split(".")[0] in PSYCOPG for each in errors):
        return
    arguments = await access.arguments()
    if arguments is None:
        return
    given: dict[str, Any] = {key: arguments[key] for key in _SAME if arguments.get(key)}
    if "sslmode" in arguments:
        given["ssl"] = arguments["sslmode"]
    try:
        connection = await asyncpg.connect(**given, database=database, timeout=_TIMEOUT_S)
    except asyncpg.PostgresError as answer:
        error.__cause__ = answer
    except (OSError, TimeoutError, ValueError, asyncpg.InterfaceError):
        return  # it does not get as far as an answer, either
    else:
        with suppress(OSError, TimeoutError, asyncpg.InterfaceError):
            await connection.close(timeout=_TIMEOUT_S)

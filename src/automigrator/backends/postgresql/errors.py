"""What PostgreSQL's SQLSTATE tells: the kind of a failure, what to do, why an act is refused."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import asyncpg  # type: ignore[import-untyped]  # it ships no types
from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError

from automigrator.backends import advice
from automigrator.backends.access import Access
from automigrator.backends.contract.values import Verdict
from automigrator.backends.postgresql.libpq import driver_of, options_of
from automigrator.errors import (
    AutomigratorError,
    ConfigurationError,
    LockTimeoutError,
    RefusedError,
)
from automigrator.failure import FailureKind
from automigrator.frozen import Frozen
from automigrator.support.error_chain import chain
from automigrator.support.postgresql_urls import translated
from automigrator.support.secrets import cut

NO_DATABASE = "3D000"

NO_PRIVILEGE = "42501"

DISK_FULL = "53100"

TOO_MANY = "53300"

FAILED_TRANSACTION = "25P02"

_LOST = ("08003", "08006")
"""A driver's own codes for a connection that the server has ended: why is behind them."""

_RESTART = "start again: nothing of the attempt was committed"

_IDLE = (
    "the server, the database or the role limits how long a session may be idle, or a transaction "
    "may take: Timeouts(statement=0) lifts such limits for migrations"
)

_VERDICTS: dict[str, Verdict] = {
    NO_DATABASE: Verdict(
        "unreachable",
        "create the database, or leave Target(create=False) out; check the URL's name of it",
    ),
    TOO_MANY: Verdict(
        "unreachable",
        "the server has no connection left for this role: end some (pg_stat_activity), or raise "
        "max_connections, the role's or the database's connection limit",
    ),
    **dict.fromkeys(("57P01", "57P02"), Verdict("unreachable")),
    "57P03": Verdict(
        "unreachable",
        "the server is starting, stopping or recovering: wait for it and start again, or raise "
        "Timeouts(connect=)",
    ),
    "28P01": Verdict(
        "auth",
        "check the password (of the URL, of the engine, or what PGPASSWORD and ~/.pgpass say), and "
        "that it is this server's",
    ),
    NO_PRIVILEGE: Verdict(
        "auth",
        "give the role the right that is missing (GRANT, ALTER ... OWNER TO), or name a role that "
        "has it with Target(migrate_with=...)",
    ),
    "55P03": Verdict(
        "lock-timeout",
        "end the session that holds the lock (pg_stat_activity), or start again when it is gone; "
        "Timeouts(retry=) says how long it is tried",
    ),
    "40P01": Verdict(
        "lock-timeout",
        f"{_RESTART}. If it happens again, let the revision lock its tables in the order in which "
        "the application does",
    ),
    "40001": Verdict(
        "lock-timeout",
        f"{_RESTART}. If it happens again, stop what writes to the same rows meanwhile",
    ),
    "57014": Verdict(
        "timeout",
        "raise statement_timeout for the migrating role (ALTER ROLE ... SET), lift it for "
        "migrations with Timeouts(statement=0), or split the revision; if nobody set it, "
        "somebody cancelled the statement",
    ),
    **dict.fromkeys(("25P03", "25P04"), Verdict("timeout", _IDLE)),
    "57P05": Verdict("unreachable", _IDLE),
    DISK_FULL: Verdict(
        "disk-full",
        "free space on the server's disk (data, pg_wal, the tablespace, temporary files), then "
        "start again",
    ),
    "25006": Verdict(
        "read-only",
        "point the target at the primary; if it is one, look at default_transaction_read_only of "
        "the server, the database and the role",
    ),
    "XX001": Verdict(
        "corrupt",
        "stop writing to this server, copy its data directory, and look at its disk; then restore "
        "a backup",
    ),
    "XX002": Verdict("corrupt"),
    "25001": Verdict(None, advice.OUTSIDE),
    "55P04": Verdict(
        None,
        "a new value of an enum can be used only once its ALTER TYPE is committed: put that one "
        "alone into `with op.get_context().autocommit_block():`, which commits what came before",
    ),
    "23505": Verdict(None, advice.DUPLICATES),
    "23502": Verdict(None, advice.NO_VALUE),
    "23503": Verdict(None, advice.ORPHANS),
    "23514": Verdict(None, advice.VIOLATES),
    "23P01": Verdict(None, advice.EXCLUDE_EACH_OTHER),
    **dict.fromkeys(
        ("42P07", "42701", "42710", "42P06", "42723"), Verdict(None, advice.THERE_ALREADY)
    ),
    **dict.fromkeys(("42P01", "42703", "42704", "3F000"), Verdict(None, advice.NOT_THERE)),
    # any other of a class
    "08": Verdict("unreachable"),
    "28": Verdict("auth"),
    "22": Verdict(None, advice.NOT_FITTING),
}

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

_PREPARED = ("26000", "42P05")
"""A prepared statement that is not there, or is there already."""

# how asyncpg and psycopg name what they prepare by themselves
_A_DRIVERS_OWN = re.compile(r'"(?:__asyncpg_|_pg3_)\w+"')

DIRECT = (
    "Give migrations a direct URL of the server: Target(migrate_with='postgresql+asyncpg://...')"
)

_POOLED = Verdict(
    "unreachable",
    f"a pooler in transaction mode (PgBouncer, say) gave the driver another session. {DIRECT}",
)


_OF_DATA = frozenset({"22", "23", "42"})
"""Classes of SQLSTATEs: data, integrity, and what is there or is not."""

# 42883 and 42704: a function, type or collation, which an extension that is missing brings;
# 22023: a role or a value that a setting does not take
_OF_THE_SURROUNDINGS = frozenset({NO_PRIVILEGE, "42883", "42704", "22023"})


class ServerError(AutomigratorError):
    """Raised when the server or the role's rights do not suffice; nothing was changed."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind


def classify(error: BaseException) -> Verdict:
    """Judge by the first SQLSTATE in the chain, or by what the network said.

    The verdict's kind is None where neither tells; its advice is empty where the kind's own is as
    good.
    """
    own = own_code(getattr(error, "orig", None)) or own_code(error) or ""
    of_data = own[:2] in _OF_DATA and own not in _OF_THE_SURROUNDINGS
    return _judged(error)._replace(of_data=of_data, follows=own == FAILED_TRANSACTION)


def _judged(error: BaseException) -> Verdict:
    errors = list(chain(error))
    code = code_of(error)
    verdict = _VERDICTS.get(code or "") or _VERDICTS.get((code or "")[:2], Verdict())
    if code in _PREPARED and any(_A_DRIVERS_OWN.search(cut(str(each))) for each in errors):
        return _POOLED
    ours = next((each for each in errors if isinstance(each, ServerError | LockTimeoutError)), None)
    if ours is not None:
        return verdict._replace(kind=getattr(ours, "kind", "lock-timeout"))
    lost = any(isinstance(each, DBAPIError) and each.connection_invalidated for each in errors)
    silent = code is None and any(_never_answered(each) for each in errors)
    if verdict.kind is None and (lost or silent):
        return verdict._replace(kind="unreachable")
    return verdict


def _never_answered(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError | socket.gaierror | ssl.SSLError):
        return True
    if isinstance(error, OSError):
        # a file that a revision could not open has a name; asyncpg joins several failures
        # into an error without a number
        return error.filename is None and (error.errno in _NETWORK or error.errno is None)
    if _driver_of(error) == "asyncpg":
        return type(error).__name__ in _ASYNCPG_UNANSWERED
    # psycopg's has no code when it is not about a statement
    names = {each.__name__ for each in type(error).__mro__}
    return _driver_of(error) in PSYCOPG and "OperationalError" in names


def _driver_of(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


PSYCOPG = ("psycopg", "psycopg2")

# the last resort, for a connection that an env.py opens: psycopg has no code for a refused one,
# only the server's words. English ones; for connections of our own see `with_code`
_BY_WORDS: tuple[tuple[str, str], ...] = (
    (r'database ".*" does not exist', NO_DATABASE),
    (r"password authentication failed", "28P01"),
    (r'role ".*" does not exist|not permitted to log in|pg_hba\.conf|authentication', "28000"),
    (r"permission denied for database", NO_PRIVILEGE),
    (r"too many (?:clients|connections)|connection slots", "53300"),
    (r"(?:starting up|shutting down|recovery mode|not yet accepting)", "57P03"),
)


def code_of(error: BaseException) -> str | None:
    """Return the first SQLSTATE in the chain, None when no server answered.

    A transaction that had failed already only hides what failed in it, and is passed over; so is
    a lost connection where the server said why it ended it.
    """
    errors = list(chain(error))
    codes = [code for each in errors if (code := own_code(each)) not in (None, FAILED_TRANSACTION)]
    said = next((code for code in codes if code not in _LOST), None)
    return said or next(iter(codes), None) or next(filter(None, map(_guessed, errors)), None)


def own_code(error: BaseException | None) -> str | None:
    """Return the SQLSTATE that this very error carries."""
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return code if isinstance(code, str) else None


def _guessed(error: BaseException) -> str | None:
    words = cut(str(error))
    if _driver_of(error) not in PSYCOPG or "FATAL" not in words:
        return None
    return next((code for pattern, code in _BY_WORDS if re.search(pattern, words)), None)


_TIMEOUT_S = 5.0


async def with_code(error: Exception, access: Access, database: str) -> None:
    """Add the answer that asyncpg gets as the cause of an `error` that has no code.

    It is not asked where it cannot be told all that the application demands of a server: one that
    proves less would get the password.
    """
    errors = list(chain(error))
    coded = any(own_code(each) is not None for each in errors)
    if coded or not any(_driver_of(each) in PSYCOPG for each in errors):
        return
    if (arguments := await access.arguments()) is None:
        return
    with suppress(ConfigurationError, RefusedError):
        options = {**await options_of(arguments, driver_of(access)), "dbname": database}
        url = translated(URL.create("postgresql+psycopg", query=options), "postgresql+asyncpg")
        _, given = url.get_dialect()().create_connect_args(url)
        # it may not get as far as an answer, either
        with suppress(OSError, TimeoutError, TypeError, ValueError, asyncpg.InterfaceError):
            try:
                connection = await asyncpg.connect(**given, timeout=_TIMEOUT_S)
            except asyncpg.PostgresError as answer:
                error.__cause__ = answer
            else:
                await connection.close(timeout=_TIMEOUT_S)


class Session(Frozen):
    """Somebody connected to a database; `pid` 0 is a prepared transaction."""

    pid: int
    application_name: str
    user: str
    state: str | None
    query_age_s: float | None

    def __str__(self) -> str:
        who = f"pid {self.pid}" if self.pid else "prepared transaction"
        seconds = self.query_age_s or 0
        age = f"for {seconds:.0f} s" if seconds >= 1 else None
        what = [self.application_name, f"user {self.user}", self.state, age]
        return f"{who} ({', '.join(part for part in what if part)})"


def in_use(act: str, sessions: Sequence[Session]) -> RefusedError:
    who = listed([str(session) for session in sessions]) or "somebody who has left since"
    return RefusedError(
        f"cannot {act}: connected: {who}; no database was changed; stop these sessions, "
        "or allow it with disconnect_others=True"
    )


def missing(name: str) -> RefusedError:
    return RefusedError(f"database {name!r} does not exist; nothing was changed")


@contextmanager
def refusing(code: str | None, why: str, advice: str) -> Iterator[None]:
    """Context manager: raise RefusedError where the server answers with this SQLSTATE.

    None stands for whatever the server answers, but not for a statement or session that was ended.
    """
    try:
        yield
    except DBAPIError as error:
        found = code_of(error)
        ended = found is None or found[:2] in ("08", "57") or error.connection_invalidated
        if ended if code is None else found != code:
            raise
        answer = str(error.orig).strip().partition("\n")[0]
        words = re.sub(r"^<class '.*?'>: ", "", answer)
        raise RefusedError(f"{why} ({words}); nothing was changed. {advice}".strip()) from error


def listed(items: Sequence[str], most: int = 5) -> str:
    more = [f"and {len(items) - most} more"] if len(items) > most else []
    return ", ".join([*items[:most], *more])

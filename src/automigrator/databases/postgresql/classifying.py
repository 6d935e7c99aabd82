"""What kind of failure PostgreSQL's SQLSTATE says it was."""

from __future__ import annotations

import errno
import socket
import ssl

from sqlalchemy.exc import DBAPIError

from automigrator.databases.chain import chain
from automigrator.databases.polling import LockTimeoutError
from automigrator.databases.postgresql.codes import NO_PRIVILEGE, PSYCOPG, code_of
from automigrator.errors import AutomigratorError
from automigrator.failure import FailureKind

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

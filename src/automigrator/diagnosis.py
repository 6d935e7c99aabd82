"""From an exception to a Failure: its kind, what it says to a person, and what to do next."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import get_args

from sqlalchemy.exc import DBAPIError, StatementError

from automigrator.databases.backend import Backend
from automigrator.databases.chain import chain
from automigrator.databases.holding import LockLostError
from automigrator.errors import ConfigurationError, RefusedError
from automigrator.failure import Failure, FailureKind, State
from automigrator.hooks import HookError
from automigrator.target import Target
from automigrator.urls import scrubbed

_DATA = re.compile(
    r"(invalid input (?:for query argument \$\d+|syntax for [\w ]+|value for enum [\w.\" ]+)): .*"
)
"""What drivers and the server say of a value, which may be anybody's."""

STATEMENT_LIMIT = 2000
"""Characters of a statement that a failure keeps."""

ADVICE: dict[FailureKind, str] = {
    "unreachable": "check that the server is up and the URL's host, port and database are right",
    "auth": "check the user, the password and the server's access rules",
    "lock-timeout": "find out who holds the lock; start again when it is gone",
    "timeout": "raise the limit that was reached, here or in the server, or split the revision",
    "disk-full": "free disk space, then start again",
    "read-only": "point the target at a writable primary, or make the file writable",
    "corrupt": "restore a backup; do not write to the database before it has been looked at",
    "revision": "repair the revision and start again",
    "history": "repair the revision files; the database is not the cause",
    "ahead": "deploy the code that knows this revision, or roll the database back with it",
    "unversioned": (
        "say which revision its tables are at with Target(..., baseline='<revision>'), "
        "or baseline='base' to run every revision on it"
    ),
    "env": "change what the message names in env.py, or set drive= on the target",
    "hook": "repair the plugin that is named, or take it out of the configuration",
}

REFUSED = "do what the refusal says, then start again; the plugin that asked for the act is well"


class JudgedError(Exception):
    """Raised where the kind of a failure is known from what was found, not from an exception."""

    def __init__(
        self, kind: FailureKind, message: str, advice: str = "", statement: str | None = None
    ) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind
        self.advice = advice
        self.statement = statement


def blamed(what: str, error: Exception, backend: Backend) -> JudgedError:
    """The error of a callable that the target was given, told apart from the library's own."""
    return JudgedError(
        backend.classify(error) or "hook",
        f"{what} of the target raised {first_line(error)}",
        f"repair the callable that Target({what}=...) was given",
    )


@dataclass(frozen=True, slots=True)
class Left:
    """What a failed attempt left in the database."""

    state: State = "clean"
    applied: tuple[str, ...] = ()
    debris: tuple[str, ...] = ()
    revision: str | None = None

    @classmethod
    def of(cls, failure: Failure) -> Left:
        return cls(failure.state, failure.applied, failure.debris)

    def after(self, earlier: Left) -> Left:
        """This on top of what an earlier attempt left."""
        return Left(
            max(self.state, earlier.state, key=get_args(State).index),
            tuple(dict.fromkeys(earlier.applied + self.applied)),
            tuple(dict.fromkeys(earlier.debris + self.debris)),
            self.revision,
        )


def diagnose(
    error: BaseException,
    target: Target,
    backend: Backend | None,
    left: Left,
    *,
    attempt: int,
    otherwise: FailureKind,
) -> Failure:
    """The failure that `error` is; `otherwise` is its kind where neither it nor the driver says.

    What refuses says itself what to do.
    """
    advice = error.advice if isinstance(error, JudgedError) else ""
    kind = _kind(error, backend, otherwise)
    if isinstance(error, HookError) and isinstance(error.__cause__, RefusedError):
        advice = REFUSED
    message = said(error, target)
    if kind == "timeout" and not advice and target.statement_timeout is not None:
        message += f" (the target's statement_timeout={target.statement_timeout:g} s, or less)"
    if kind == "revision" and not advice:
        from automigrator.upgrade.async_drivers import advice as driver_advice  # imports Alembic

        advice = driver_advice(target, error)
    return Failure(
        kind,
        message,
        state=left.state,
        revision=left.revision,
        statement=statement_of(error),
        applied=left.applied,
        debris=left.debris,
        advice=advice or ("" if isinstance(error, RefusedError) else ADVICE[kind]),
        attempt=attempt,
        error=error,
    )


def with_hidden_parameters(error: BaseException) -> None:
    """Keep what a statement was given out of the error's text, wherever it is printed."""
    for each in chain(error):
        if isinstance(each, StatementError):
            each.hide_parameters = True


def statement_of(error: BaseException) -> str | None:
    """The SQL that failed, without its parameters."""
    if isinstance(error, JudgedError) and error.statement is not None:
        return error.statement.strip()[:STATEMENT_LIMIT]
    for each in chain(error):
        if isinstance(each, DBAPIError) and each.statement:
            return each.statement.strip()[:STATEMENT_LIMIT]
    return None


def first_line(error: BaseException) -> str:
    """What an error says: a driver's first line only, as data may stand below it."""
    source: BaseException = error
    if isinstance(error, DBAPIError) and error.orig is not None:
        source = error.orig
    lines = str(source).strip().splitlines()
    text = _DATA.sub(r"\1: (value hidden)", lines[0]) if lines else ""
    text = re.sub(r"^<class '[\w.]*?(\w+)'>: ", r"\1: ", text)
    name = type(source).__name__
    return text if text.startswith(name) else f"{name}: {text}" if text else name


def said(error: BaseException, target: Target) -> str:
    """What an error says, without the target's passwords and without data."""
    ours = type(error).__module__.startswith("automigrator")
    text = str(error) if ours else first_line(error)
    secret = [target.application_url]
    if target.migrate_with is not None:
        other = target.migrate_with
        secret.append(getattr(other, "url", other))  # type: ignore[arg-type]  # an engine or a URL
    return scrubbed(text, *secret)


def _kind(error: BaseException, backend: Backend | None, otherwise: FailureKind) -> FailureKind:
    # local: these modules import Alembic, which a process that only skips never needs
    from automigrator.upgrade.environment import EnvError
    from automigrator.upgrade.history import HistoryError, RevisionImportError, UnknownRevisionError

    match error:
        case JudgedError():
            return error.kind
        case HookError():
            return "hook"
        case UnknownRevisionError():
            return "ahead"
        case HistoryError() | RevisionImportError():
            return "history"
        case ConfigurationError():
            return "history"
        case EnvError():
            return "env"
        case RefusedError():
            return error.kind or otherwise
    if any(isinstance(each, LockLostError) for each in chain(error)):
        return "lock-timeout"
    kind = backend.classify(error) if backend is not None else None
    return kind or otherwise

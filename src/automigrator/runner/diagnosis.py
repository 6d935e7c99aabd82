"""From an exception to a Failure: its kind, what it says to a person, and what to do next."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from automigrator.backends.contract.backend import Backend
from automigrator.errors import (
    AutomigratorError,
    HookError,
    JudgedError,
    LockLostError,
    MissingFunctionError,
    RefusedError,
)
from automigrator.failure import Blames, Failure, FailureKind
from automigrator.runner.state import Left, RunState
from automigrator.support.error_chain import chain
from automigrator.support.redaction import hide_secrets, said, statement_of
from automigrator.target import Target, passwords_of

if TYPE_CHECKING:
    from automigrator.migrations.observation import Observation

ADVICE: dict[FailureKind, str] = {
    "unreachable": "check that the server is up and the URL's host, port and database are right",
    "auth": "check the user, the password and the server's access rules",
    "lock-timeout": "find out who holds the lock; start again when it is gone",
    "timeout": "raise the limit that was reached, here or in the server, or split the revision",
    "disk-full": "free disk space, then start again",
    "read-only": "point the target at a database that may be written to",
    "corrupt": (
        "restore a backup (`automigrator snapshots list` shows the copies that are kept); do not "
        "write to the database before it has been looked at"
    ),
    "revision": "repair the revision and start again",
    "history": "repair the revision files; the database is not the cause",
    "ahead": "deploy the code that knows this revision, or roll the database back with it",
    "unversioned": (
        "say which revision its tables are at with Target(..., baseline='<revision>'), "
        "or baseline='base' to run every revision on it"
    ),
    "env": "change what the message names in env.py, or set drive= on the target",
    "hook": "repair the plugin that is named, or take it out of the configuration",
    "rehearsal": "do what the refusal says, then start again; Target(rehearse=False) goes without",
}

_NOT_THE_DATABASES: frozenset[FailureKind] = frozenset({"history", "ahead", "unversioned", "hook"})

CUT = (
    "look in the server's log for who ended the connection (an administrator, the system out of "
    "memory, a fail-over); then start again: what was not committed is rolled back"
)

REFUSED = "do what the refusal says, then start again; the plugin itself is not at fault"


def failure_of(state: RunState, error: BaseException, left: Left) -> Failure:
    """The failure that an error of this attempt is, by what was being done; see `diagnose`."""
    attempt, kind = state.run.attempt, state.phase.kind
    execution = state.rehearsal or state.execution
    # from the first revision on only what was met on the migration's own connection counts
    ran = execution is not None and execution.met_a_revision
    return diagnose(
        error,
        state.target,
        state.backend,
        left,
        attempt=attempt,
        otherwise=kind,
        observed=execution.observed if ran and execution is not None else None,
    )


def diagnose(
    error: BaseException,
    target: Target,
    backend: Backend | None,
    left: Left,
    *,
    attempt: int,
    otherwise: FailureKind,
    observed: Observation | None = None,
) -> Failure:
    """The failure that `error` is; `otherwise` is its kind where neither it nor the driver says.

    `observed`: what was seen of the revisions, once one has begun. A RefusedError carries its own
    advice, and so does damage that an act finds. The error is freed of secrets.
    """
    advice = ""
    if isinstance(error, HookError) and backend is not None:
        found, cause = backend.classify(error), error.__cause__
        if error.of_act and found.kind in ("corrupt", "disk-full") and cause is not None:
            error = cause  # the plugin is not at fault
        elif isinstance(cause, RefusedError):
            advice = REFUSED
        elif error.of_act and found.kind is not None:
            advice = found.advice or ADVICE[found.kind]
    advice = advice or str(getattr(error, "advice", ""))
    kind = _kind(error, backend, otherwise)
    if kind == "corrupt" and observed is not None and not observed.saw(error):
        kind = otherwise  # another file, which the revision reads
    refused = isinstance(error, RefusedError) and kind != "corrupt"
    secrets = passwords_of(target)
    hide_secrets(error, secrets)
    message = said(error, secrets)
    if kind == "timeout" and not advice and target.statement_timeout:
        message += f" (the target's Timeouts(statement={target.statement_timeout:g}), or less)"
    if backend is not None and kind not in _NOT_THE_DATABASES and not refused:
        # what the driver said of the statements that were stopped is no cause
        own = "" if _lost_lock(error) else backend.classify(error).advice
        advice = advice or own or backend.advice.get(kind, "")
    if kind == "unreachable" and left.revision is not None:
        advice = advice or CUT
    return Failure(
        kind,
        message,
        state=left.state,
        revision=error.revision if isinstance(error, MissingFunctionError) else left.revision,
        statement=statement_of(error, secrets),
        applied=left.applied,
        debris=left.debris,
        advice=advice or ("" if refused else ADVICE[kind]),
        attempt=attempt,
        database=target.url,
        blames=_blames(error, backend, kind, observed),
        error=error,
    )


def _blames(
    error: BaseException,
    backend: Backend | None,
    kind: FailureKind,
    observed: Observation | None,
) -> Blames:
    if observed is None:
        damaged = kind == "corrupt" and backend is not None and backend.classify(error).of_data
        return "data" if damaged else "surroundings"
    if observed.blames_data(error):
        return "data"
    by_code = kind == "revision" and not observed.others and not any(map(_outside, chain(error)))
    return "code" if by_code else "surroundings"


def _outside(error: BaseException) -> bool:
    """Whether an error is about more than the code that raised it."""
    if isinstance(error, _OUTSIDE) or not isinstance(error, Exception):
        return True
    if any(hasattr(error, name) for name in ("sqlstate", "pgcode", "sqlite_errorcode")):
        return True  # a database's, on whatever connection
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    # a variable that os.environ lacks
    return trace is not None and trace.tb_frame.f_code is _OF_ENVIRON


_OF_ENVIRON = type(os.environ).__getitem__.__code__

_OUTSIDE = (AutomigratorError, JudgedError, DBAPIError, OSError, MemoryError, ImportError)


def _lost_lock(error: BaseException) -> bool:
    return any(isinstance(each, LockLostError) for each in chain(error))


def _kind(error: BaseException, backend: Backend | None, otherwise: FailureKind) -> FailureKind:
    if isinstance(error, AutomigratorError | JudgedError) and error.kind is not None:
        return error.kind
    if isinstance(error, RefusedError):
        return otherwise
    if _lost_lock(error):
        return "lock-timeout"
    kind = backend.classify(error).kind if backend is not None else None
    if kind == "auth" and otherwise == "revision":
        return "revision"  # let in, and refused what this revision alone wants
    return kind or otherwise

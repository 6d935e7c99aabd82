"""How a process ends: the exit codes, and what each report, answer or error ends with."""

from __future__ import annotations

import enum
import signal

from automigrator.errors import (
    ConfigurationError,
    FollowTimeoutError,
    LockTimeoutError,
    MigrationError,
    PendingError,
    RefusedError,
    StoppedError,
)
from automigrator.report import Report, TargetReport
from automigrator.status import Status


class Exit(enum.IntEnum):
    """The exit codes; 1 is what Python ends with when the program itself has a defect."""

    OK = 0
    MISCONFIGURED = 2
    PENDING = 3
    DEGRADED = 4
    FAILED = 5
    LOCKED = 6
    REFUSED = 7
    INTERRUPTED = 128 + signal.SIGINT
    TERMINATED = 128 + signal.SIGTERM

    @property
    def outcome(self) -> str:
        """The word for it in `--json`."""
        return "interrupted" if self is Exit.TERMINATED else self.name.lower()


def of_report(report: Report) -> Exit:
    """The code of a run that has ended."""
    if report.outcome == "failed":
        return _of_failed(next(each for each in report.targets if each.outcome == "failed"))
    return Exit.DEGRADED if report.outcome == "degraded" else Exit.OK


def _of_failed(target: TargetReport) -> Exit:
    failure = target.failures[-1]
    if isinstance(failure.error, RefusedError):
        return Exit.REFUSED
    return Exit.LOCKED if failure.kind == "lock-timeout" else Exit.FAILED


def of_status(status: Status) -> Exit:
    """The code of the answer of `check`: the worst of its targets'."""
    codes = [Exit.OK]
    for each in status.targets:
        if each.problem is not None:
            locked = each.problem.kind == "lock-timeout"
            codes.append(Exit.LOCKED if locked else Exit.FAILED)
        elif not each.current or each.drift:
            codes.append(Exit.PENDING)
    return max(codes, key=[Exit.OK, Exit.PENDING, Exit.LOCKED, Exit.FAILED].index)


def of_error(error: BaseException) -> Exit:
    """The code of a process whose work raised."""
    match error:
        case ConfigurationError():
            return Exit.MISCONFIGURED
        case MigrationError():
            return of_report(error.report)
        case PendingError() | FollowTimeoutError():
            return Exit.PENDING
        case RefusedError():
            return Exit.REFUSED
        case StoppedError():
            return Exit(128 + error.signal)
        case KeyboardInterrupt():
            return Exit.INTERRUPTED
        case LockTimeoutError():
            return Exit.LOCKED
    return Exit.LOCKED if getattr(error, "kind", None) == "lock-timeout" else Exit.FAILED

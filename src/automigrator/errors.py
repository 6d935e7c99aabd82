"""The exceptions automigrator raises.

AutomigratorError
 ├─ ConfigurationError        a Migrator, Target or environment variable is wrong
 │   └─ PluginError           a hook implementation or recovery strategy is wrong
 ├─ PendingError              mode "check" found work to do
 ├─ FollowTimeoutError        mode "wait" ran out of time
 ├─ RefusedError              an act was refused before anything changed
 ├─ StoppedError              SIGTERM or SIGINT arrived while a run was under way
 └─ MigrationError            a target could not be brought to its revision
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from automigrator.failure import FailureKind
    from automigrator.report import Report, Status


class AutomigratorError(Exception):
    """Base of every error automigrator raises."""


class ConfigurationError(AutomigratorError):
    """Raised when what the application configured cannot work; nothing was touched."""


class PluginError(ConfigurationError):
    """Raised when a hook or a recovery strategy cannot be used; nothing was touched."""


class PendingError(AutomigratorError):
    """Raised in mode `check` when a database is not at the revision the code expects."""

    def __init__(self, message: str, status: Status) -> None:
        super().__init__(message)
        self.status = status


class FollowTimeoutError(AutomigratorError):
    """Raised in mode `wait` when no leader has migrated within the limit; nothing was touched."""

    def __init__(self, message: str, status: Status) -> None:
        super().__init__(message)
        self.status = status


class RefusedError(AutomigratorError):
    """Raised when an act (snapshot, restore, purge) cannot be done safely; nothing was changed.

    `kind` is the kind of failure it makes where no plugin catches it; None leaves it open.
    """

    kind: FailureKind | None = None


class StoppedError(AutomigratorError):
    """Raised when SIGTERM or SIGINT has ended a run; what was not committed is rolled back.

    `signal` is its number.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class MigrationError(AutomigratorError):
    """Raised when a target failed and no strategy told the run to go on.

    `report` holds every target's result, the failed one's failures included.
    """

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report

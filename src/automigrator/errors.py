"""The exceptions automigrator raises.

AutomigratorError
 ├─ ConfigurationError        a Migrator, Target or environment variable is wrong
 │   └─ PluginError           a hook implementation or recovery strategy is wrong
 ├─ PendingError              mode "check" found work to do
 ├─ FollowTimeoutError        mode "wait" ran out of time
 ├─ RefusedError              an act was refused before anything changed
 ├─ StoppedError              SIGTERM or SIGINT arrived while a run was under way
 ├─ MigrationError            a target could not be brought to its revision
 └─ ExecutorError             no worker is left to migrate a fleet's tenants

`automigrator.fleet` adds SourceError, where tenants cannot be read, and FleetError, where more of
them failed than may.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from automigrator.printable import escaped, escaped_lines

if TYPE_CHECKING:
    from automigrator.failure import FailureKind
    from automigrator.report import Report
    from automigrator.status import Status


class Shown(Exception):
    """Base of errors whose message others have written a part of; `args` have it as it is."""

    def __str__(self) -> str:
        return escaped(super().__str__())


class AutomigratorError(Shown):
    """Base of every error automigrator raises."""

    kind: FailureKind | None = None
    """The kind of failure that it makes of a run; None leaves that open."""


class ConfigurationError(AutomigratorError):
    """Raised when what the application configured cannot work; nothing was touched."""

    kind = "history"
    advice: str = ""
    """What to do, where the message does not say it."""


class PluginError(ConfigurationError):
    """Raised when a hook or a recovery strategy cannot be used; nothing was touched."""


class _StatusError(AutomigratorError):
    """Raised for how the databases stand: `status` holds every target's part."""

    def __init__(self, message: str, status: Status) -> None:
        super().__init__(message)
        self.status = status

    def __str__(self) -> str:
        return escaped_lines(*self.args)


class PendingError(_StatusError):
    """Raised in mode `check` when a database is not at the revision the code expects."""


class FollowTimeoutError(_StatusError):
    """Raised in mode `wait` when no leader has migrated within the limit; nothing was touched."""


class RefusedError(AutomigratorError):
    """Raised when an act (snapshot, restore, purge) cannot be done safely; nothing was changed."""


class StoppedError(AutomigratorError):
    """Raised when SIGTERM or SIGINT has ended a run; what was not committed is rolled back.

    `signal` is its number.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class ExecutorError(AutomigratorError):
    """Raised when no worker is left to migrate a fleet's tenants; reported ones are done."""


class MigrationError(AutomigratorError):
    """Raised when a target failed and no strategy told the run to go on.

    Its text is what a person needs. `report` holds every target's result, the failed one's failures
    included: `report["<target>"].failures[-1].error` is the exception behind it.
    """

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report

    def __str__(self) -> str:
        return escaped_lines(*self.args)


class NoAnswerError(Shown, TimeoutError):
    """Raised when a database server says nothing for too long."""


class LockTimeoutError(Shown, TimeoutError):
    """Raised when another process held the migration lock for too long; nothing was changed."""


class LockLostError(AutomigratorError):
    """Raised when another process may hold the lock by now; what was not committed is undone."""


_FILES = "repair the revision files; the database is not the cause"


class HistoryError(AutomigratorError):
    """Raised when the revision files do not make one sound history."""

    kind: FailureKind | None = "history"

    def __init__(self, message: str, advice: str = _FILES) -> None:
        super().__init__(message)
        self.advice = advice


class MissingFunctionError(HistoryError):
    """Raised when a revision that is to run has no `upgrade()`, or no `downgrade()`."""

    kind = "revision"

    def __init__(self, message: str, advice: str = _FILES, revision: str | None = None) -> None:
        super().__init__(message, advice)
        self.revision = revision


class RevisionImportError(AutomigratorError):
    """Raised when a revision file cannot be imported."""

    kind = "history"
    advice = (
        "repair the file, or deploy what it imports; a revision should import nothing that may "
        "change after it"
    )


class UnknownRevisionError(AutomigratorError):
    """Raised when the database is at a revision that no file knows."""

    kind = "ahead"

    def __init__(self, unknown: tuple[str, ...], known_heads: tuple[str, ...]) -> None:
        super().__init__(
            f"the database is at {', '.join(unknown)}, which this code does not know; "
            f"its own newest revision is {', '.join(known_heads) or 'base'}"
        )
        self.unknown = unknown
        self.contexts: tuple[Any, ...] = ()
        """How every version table of the target stands, where that was looked at."""


class EnvError(AutomigratorError):
    """Raised when env.py cannot be driven to the target's database."""

    kind = "env"

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice


class RevisionExitError(AutomigratorError):
    """Raised when a revision wants to end the process."""


class HookError(AutomigratorError):
    """Raised when a plugin's hook raised, ran out of time or answered nonsense.

    `blame` names the plugin and `hook` what it was asked; the plugin's own error is the cause.
    """

    kind = "hook"
    of_act = False
    """Whether the cause was raised by an act that the plugin asked for: a snapshot, say."""

    def __init__(self, message: str, blame: str, hook: str) -> None:
        super().__init__(message)
        self.blame = blame
        self.hook = hook


class OverdueError(HookError):
    """Raised when a hook exceeded its deadline."""


class JudgedError(Shown):
    """Raised where the kind of a failure is known from what was found, not from an exception."""

    def __init__(
        self, kind: FailureKind, message: str, advice: str = "", statement: str | None = None
    ) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind
        self.advice = advice
        self.statement = statement

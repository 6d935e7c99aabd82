"""automigrator: bring databases to the revision the code expects, at startup."""

from automigrator._version import __version__
from automigrator.checkup import Checkup, TargetCheckup
from automigrator.errors import (
    AutomigratorError,
    ConfigurationError,
    FollowTimeoutError,
    MigrationError,
    PendingError,
    PluginError,
    RefusedError,
    StoppedError,
)
from automigrator.events import Event
from automigrator.failure import Decision, Failure
from automigrator.hooks import hookimpl
from automigrator.migrator import Migrator
from automigrator.rehearsal import Rehearsal
from automigrator.report import Plan, Report, Status, TargetReport, TargetStatus
from automigrator.retention import Limits
from automigrator.run import Run
from automigrator.target import Target

__all__ = [
    "AutomigratorError",
    "Checkup",
    "ConfigurationError",
    "Decision",
    "Event",
    "Failure",
    "FollowTimeoutError",
    "Limits",
    "MigrationError",
    "Migrator",
    "PendingError",
    "Plan",
    "PluginError",
    "RefusedError",
    "Rehearsal",
    "Report",
    "Run",
    "Status",
    "StoppedError",
    "Target",
    "TargetCheckup",
    "TargetReport",
    "TargetStatus",
    "__version__",
    "hookimpl",
]

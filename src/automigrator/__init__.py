"""automigrator: bring databases to the revision the code expects, at startup."""

from __future__ import annotations

from automigrator._version import __version__
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
from automigrator.events.stream import Event
from automigrator.failure import Decision, Failure
from automigrator.hooks.context import Run
from automigrator.hooks.spec import hookimpl
from automigrator.migrator import Migrator
from automigrator.report import Plan, Report, Status, TargetReport, TargetStatus
from automigrator.retention import Limits
from automigrator.runner.checkup import Checkup, TargetCheckup
from automigrator.target import Rehearsal, Target

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

"""automigrator: bring databases to the revision the code expects, at startup.

Each name is imported when it is first asked for: a start with nothing to do needs few of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from automigrator._version import __version__ as __version__
    from automigrator.backends.contract.snapshots import Snapshot as Snapshot
    from automigrator.errors import AutomigratorError as AutomigratorError
    from automigrator.errors import ConfigurationError as ConfigurationError
    from automigrator.errors import FollowTimeoutError as FollowTimeoutError
    from automigrator.errors import MigrationError as MigrationError
    from automigrator.errors import PendingError as PendingError
    from automigrator.errors import PluginError as PluginError
    from automigrator.errors import RefusedError as RefusedError
    from automigrator.errors import StoppedError as StoppedError
    from automigrator.events.event import Event as Event
    from automigrator.failure import Decision as Decision
    from automigrator.failure import Failure as Failure
    from automigrator.hooks.context import Run as Run
    from automigrator.hooks.spec import hookimpl as hookimpl
    from automigrator.migrator import Migrator as Migrator
    from automigrator.readiness import Readiness as Readiness
    from automigrator.rehearsal import Rehearsal as Rehearsal
    from automigrator.report import Report as Report
    from automigrator.report import TargetReport as TargetReport
    from automigrator.retention import Limits as Limits
    from automigrator.runner.operations.checkup import Checkup as Checkup
    from automigrator.runner.operations.checkup import TargetCheckup as TargetCheckup
    from automigrator.runner.operations.snapshots import Restored as Restored
    from automigrator.status import Plan as Plan
    from automigrator.status import Plans as Plans
    from automigrator.status import Status as Status
    from automigrator.status import TargetStatus as TargetStatus
    from automigrator.target import Target as Target
    from automigrator.timeouts import Timeouts as Timeouts

_MODULES = {
    "AutomigratorError": "errors",
    "Checkup": "runner.operations.checkup",
    "ConfigurationError": "errors",
    "Decision": "failure",
    "Event": "events.event",
    "Failure": "failure",
    "FollowTimeoutError": "errors",
    "Limits": "retention",
    "MigrationError": "errors",
    "Migrator": "migrator",
    "PendingError": "errors",
    "Plan": "status",
    "Plans": "status",
    "PluginError": "errors",
    "Readiness": "readiness",
    "RefusedError": "errors",
    "Rehearsal": "rehearsal",
    "Report": "report",
    "Restored": "runner.operations.snapshots",
    "Run": "hooks.context",
    "Snapshot": "backends.contract.snapshots",
    "Status": "status",
    "StoppedError": "errors",
    "Target": "target",
    "TargetCheckup": "runner.operations.checkup",
    "TargetReport": "report",
    "TargetStatus": "status",
    "Timeouts": "timeouts",
    "__version__": "_version",
    "hookimpl": "hooks.spec",
}
"""Every public name, and the module that defines it."""

__all__ = list(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

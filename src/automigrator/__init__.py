"""automigrator: bring databases to the revision the code expects, at startup.

Each name is imported when it is first asked for: a start with nothing to do needs few of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
    from automigrator.events.event import Event
    from automigrator.failure import Decision, Failure
    from automigrator.hooks.context import Run
    from automigrator.hooks.spec import hookimpl
    from automigrator.migrator import Migrator
    from automigrator.rehearsal import Rehearsal
    from automigrator.report import Report, TargetReport
    from automigrator.retention import Limits
    from automigrator.runner.checkup import Checkup, TargetCheckup
    from automigrator.status import Plan, Status, TargetStatus
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

_MODULES = {
    "Checkup": "runner.checkup",
    "Decision": "failure",
    "Event": "events.event",
    "Failure": "failure",
    "Limits": "retention",
    "Migrator": "migrator",
    "Plan": "status",
    "Rehearsal": "rehearsal",
    "Report": "report",
    "Run": "hooks.context",
    "Status": "status",
    "Target": "target",
    "TargetCheckup": "runner.checkup",
    "TargetReport": "report",
    "TargetStatus": "status",
    "__version__": "_version",
    "hookimpl": "hooks.spec",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_MODULES.get(name, 'errors')}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

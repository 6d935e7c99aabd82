"""Logs a critical record about a failed migration, and lets the application start."""

from __future__ import annotations

import logging

from automigrator import Decision, Failure, Run, hookimpl
from automigrator.printable import escaped

# a child of the core's logger, so that one configuration holds for both
logger = logging.getLogger("automigrator.log_and_continue")


class LogAndContinue:
    """Strategy: log one CRITICAL record about the failure and answer CONTINUE.

    Arguments:
        ahead: whether to start on a database that is newer than this code, too. False leaves that
            to `Target(ahead=)`.
        corrupt: whether to start on a damaged database, too: writes may make it worse.

    Raises ValueError for an option that it cannot use.
    """

    effect = "none"

    def __init__(self, *, ahead: bool = False, corrupt: bool = False) -> None:
        self._starts_on = {"ahead": ahead, "corrupt": corrupt}
        for name, value in self._starts_on.items():
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be True or False, not {value!r}")

    @hookimpl
    def on_failure(self, run: Run, failure: Failure) -> Decision | None:
        """Log what failed and what is at risk; for a machine in `extra`, with all that is known."""
        if not self._starts_on.get(failure.kind, True):
            run.note(
                f"not continued: log-and-continue starts on such a database only with "
                f'("log-and-continue", {{"{failure.kind}": True}})'
            )
            return None
        risk = at_risk(run, failure)
        logger.critical(
            "%s could not be migrated; the application %s.\nwhat failed: %s\nwhat is at risk: %s",
            escaped(run.name),
            "starts anyway" if failure.state == "clean" else "is to start on what is left",
            failure.headline,  # the run's report says the rest, at the end of the run
            escaped(risk),
            extra={
                "automigrator": {
                    "event": "log-and-continue",
                    "run": run.id,
                    "target": run.name,
                    "database": run.database,
                    "state": failure.state,
                    "heads_before": list(run.before),
                    "heads_wanted": list(run.wanted),
                    "at_risk": risk,
                    "failure": failure.to_dict(),
                }
            },
        )
        return Decision.CONTINUE


def at_risk(run: Run, failure: Failure) -> str:
    """Return what an application risks that starts on this database."""
    wanted = ", ".join(run.wanted) or "unknown"
    before = ", ".join(run.before) or "base"
    if failure.state == "unknown":
        return (
            f"the database could not be looked at after the failure: it may be at {before}, at "
            f"{wanted}, or half way, where neither the old code nor the new fits its schema. The "
            "application starts only with allow_partial=True"
        )
    if failure.state != "clean":
        return (
            f"the database is half way from {before} to {wanted}: neither the old code nor the "
            "new fits its schema. The application starts only with allow_partial=True"
        )
    if failure.kind == "corrupt":
        return "the database is damaged: reads may fail and writes may make it worse"
    if failure.kind == "ahead":
        return "the database is newer than this code, which may misread or damage its data"
    if not run.wanted and not run.before:
        return "the database could not be read: it is not known whether its schema fits"
    if not run.wanted:
        return f"the database is at {before}; which revision the code expects could not be read"
    return f"the database is at {before}, the code expects {wanted}: code for the new schema fails"

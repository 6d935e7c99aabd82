"""Says at the top of its voice that a migration failed, and lets the application start."""

from __future__ import annotations

import logging

from automigrator import Decision, Failure, Run, hookimpl

# below the core's: what an application configures for one holds for both
logger = logging.getLogger("automigrator.log_and_continue")

_UNREAD = frozenset({"unreachable", "auth", "lock-timeout", "timeout"})


class LogAndContinue:
    """Logs one CRITICAL record about the failure, and answers CONTINUE."""

    effect = "none"

    @hookimpl
    def on_failure(self, run: Run, failure: Failure) -> Decision | None:
        risk = at_risk(run, failure)
        logger.critical(
            "%s could not be migrated, and the application is told to start anyway.\n"
            "what failed: %s\nwhat is at risk: %s",
            run.name,
            failure,
            risk,
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
    """What an application that starts on this database must expect."""
    wanted = ", ".join(run.wanted) or "unknown"
    before = ", ".join(run.before) or "base"
    if failure.state != "clean":
        return (
            f"the database is half way from {before} to {wanted}: neither the old code nor the "
            "new fits its schema. The application starts only with allow_partial=True"
        )
    if failure.kind == "corrupt":
        return "the database is damaged: reads may fail and writes may make it worse"
    if failure.kind == "ahead":
        return "the database is newer than this code, which may misread or damage its data"
    if failure.kind in _UNREAD and not run.wanted:
        return "the database could not be looked at: whether its schema fits is not known"
    return (
        f"the database is at {before}, the code expects {wanted}: what needs the new schema fails"
    )

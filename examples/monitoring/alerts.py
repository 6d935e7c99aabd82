"""Prometheus's alert rules: how loud each is says the catalogue of events.

The alerts look at values and not at `increase()`: a migration is over before a process is scraped
for the first time, and a counter that is born at 1 has never increased.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

from automigrator.events.catalogue import CATALOGUE

SEVERITIES = {logging.WARNING: "warning", logging.ERROR: "critical", logging.CRITICAL: "critical"}


class Limits(NamedTuple):
    """What is too long."""

    run_s: float = 1800
    """Seconds that a run may take."""
    wait_s: float = 300
    """Seconds that a run may wait for the server, the lock or the leader."""
    ready: str = "15m"
    """How long an instance may not be ready."""
    pending: str = "5m"
    """How long an instance may serve with revisions pending."""
    told_s: float = 86400
    """Seconds after a run for which it is told what it had to do."""


LIMITS = Limits()
RUNBOOKS = "docs/monitoring.md"
"""The page with a section for each alert; a URL is better."""


def rules(limits: Limits = LIMITS, runbooks: str = RUNBOOKS) -> dict[str, Any]:
    """Return Prometheus's rule file."""
    return {"groups": [{"name": "automigrator", "rules": list(alerts(limits, runbooks))}]}


def alerts(limits: Limits, runbooks: str) -> Iterator[dict[str, Any]]:
    long_ago = (
        "unless on (job, instance) (time() - (automigrator_last_run_timestamp_seconds > 0) "
        f"> {limits.told_s:g})"
    )
    where = "{{ $labels.target }} on {{ $labels.instance }}"
    instance = "{{ $labels.instance }}"

    def alert(
        name: str,
        severity: str,
        expression: str,
        summary: str,
        description: str,
        lasting: str | None = None,
    ) -> dict[str, Any]:
        return {
            "alert": name,
            "expr": expression,
            **({"for": lasting} if lasting else {}),
            "labels": {"severity": severity},
            "annotations": {
                "summary": summary,
                "description": description,
                "runbook_url": f"{runbooks}#{name.lower()}",
            },
        }

    yield alert(
        "AutomigratorRunFailed",
        severity_of("run-finished", outcome="failed"),
        'automigrator_last_run_outcome{outcome="failed"} == 1',
        f"The migration of {where} failed",
        "The last run failed and no recovery strategy let the application start. The log has the "
        "failure: its kind, the revision, the state of the database, and what to do.",
    )
    yield alert(
        "AutomigratorDegraded",
        severity_of("run-finished", outcome="degraded"),
        'automigrator_last_run_outcome{outcome="degraded"} == 1',
        f"{where} serves a database that is not at its revision",
        "The migration failed, and a recovery strategy let the application start on the database "
        "as it is.",
    )
    yield alert(
        "AutomigratorRecovered",
        severity_of("restored"),
        f"automigrator_recoveries_total > 0 {long_ago}",
        f"The data of {where} was changed by a recovery ({{{{ $labels.recovery }}}})",
        "restore: a snapshot was put back. recreate: the database was rebuilt from nothing. "
        "repair: what a killed start had left was finished or undone. Data that was written since "
        "may be in the copy that was kept alone; the log names it.",
    )
    yield alert(
        "AutomigratorCrashLoop",
        severity_of("crash-loop"),
        f"automigrator_crash_loops_total > 0 {long_ago}",
        f"Starts of {where} try no migration any more",
        "Too many starts in a row failed at the same revisions. A repaired deployment is tried at "
        "once; the same one is not until a day has passed.",
    )
    yield alert(
        "AutomigratorRunTooLong",
        "warning",
        f"time() - (automigrator_run_started_timestamp_seconds > 0) > {limits.run_s:g}",
        f"{instance} has been migrating for {{{{ $value | humanizeDuration }}}}",
        f"A run takes longer than {limits.run_s:g} seconds. It may wait, or run a long statement.",
    )
    yield alert(
        "AutomigratorWaiting",
        "warning",
        f"automigrator_waiting_seconds > {limits.wait_s:g}",
        f"{instance} has waited for the {{{{ $labels.on }}}} for "
        "{{ $value | humanizeDuration }}",
        "server: the database does not answer. lock: another process migrates, or holds the lock "
        "and hangs; the log names it. leader: no other process has migrated yet.",
    )
    yield alert(
        "AutomigratorNotReady",
        "warning",
        "automigrator_ready == 0",
        f"{instance} does not let requests through to the application",
        f"The gate has answered 503 for {limits.ready}: the migration goes on, has failed, or the "
        "application's own start does not end.",
        limits.ready,
    )
    yield alert(
        "AutomigratorPending",
        "warning",
        "automigrator_pending_revisions > 0 unless on (job, instance) "
        "(automigrator_run_started_timestamp_seconds > 0)",
        f"{{{{ $value }}}} revisions of {where} are pending, and no run applies them",
        "The last run ended before the database was at the revision that the code expects.",
        limits.pending,
    )


def severity_of(event: str, **data: str) -> str:
    return SEVERITIES[CATALOGUE[event].level_for(data)]

"""A tenant's report where something went wrong around it, and reports that come from afar."""

from __future__ import annotations

import json

from automigrator.errors import StoppedError
from automigrator.fleet.executors.contract import Bringing
from automigrator.fleet.report import TenantReport
from automigrator.support import json_object
from automigrator.support.redaction import said
from automigrator.support.secrets import scrubbed

LOST = "worker"
"""The kind of a failure where a tenant was not at fault as far as anybody knows."""


def failed(
    tenant: str, message: str, advice: str, *, kind: str = LOST, worker: str = ""
) -> TenantReport:
    """The report of a tenant that nobody could bring; what state it is in is not known."""
    failure = {
        "kind": kind,
        "message": scrubbed(message),
        "revision": None,
        "state": "unknown",
        "advice": advice,
    }
    return TenantReport(tenant, "failed", failure=failure, worker=worker)


async def brought(fleet: Bringing, tenant: str, worker: str = "") -> TenantReport:
    """Bring one tenant; whatever its fleet raises fails this tenant alone.

    Raises StoppedError where a signal ends the process, and CancelledError.
    """
    try:
        report = await fleet.bring(tenant)
    except StoppedError:
        raise
    except Exception as error:  # noqa: BLE001 - one tenant must not stop the others
        kind = getattr(error, "kind", None)
        advice = "see the log of the worker; the next run looks at this tenant again"
        return failed(tenant, said(error, ()), advice, kind=kind or LOST, worker=worker)
    if report.name != tenant:
        report = failed(tenant, f"its fleet reported {report.name!r} instead of it", "repair it")
    return report._replace(worker=report.worker or worker)


def written(report: TenantReport) -> str:
    """A report as the JSON text that `read` takes."""
    text = json.dumps(report.to_dict())
    try:
        json_object.parsed(text)
    except ValueError as error:
        advice = "see the log of the worker; the next run looks at this tenant again"
        message = f"it was {report.outcome}, and its report cannot be sent: {error}"
        text = json.dumps(failed(report.name, message, advice, worker=report.worker).to_dict())
    return text


def read(text: str | bytes, tenant: str, worker: str = "") -> TenantReport:
    """The report of `tenant` that a worker wrote; what is none of it fails this tenant alone."""
    try:
        report = json_object.read(TenantReport, json_object.parsed(text))
        if report.name != tenant:
            raise ValueError(f"it is about {report.name!r}")
    except ValueError as error:
        advice = "see the log of the worker; the next run looks at this tenant again"
        return failed(tenant, f"its report cannot be read: {error}", advice, worker=worker)
    return report._replace(worker=report.worker or worker)

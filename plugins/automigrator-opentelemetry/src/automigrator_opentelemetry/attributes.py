"""The attributes of spans and metrics, named by OpenTelemetry's conventions where there are any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry.util.types import AttributeValue
from sqlalchemy import make_url

from automigrator import Event

Attributes = dict[str, AttributeValue]

DB_SYSTEM, DB_NAMESPACE = "db.system.name", "db.namespace"
ERROR_TYPE = "error.type"
OUTCOME, TARGET, RUN = "automigrator.outcome", "automigrator.target", "automigrator.run"

CUTTING = frozenset({"failed", "retrying"})
"""Events that end every open step of an attempt, with an error."""

_LEFT_OUT = frozenset({"database", "url", "error", "statement", "advice", "failures", "notes"})
"""Keys that the conventions name otherwise, that are too long, or that may hold a literal."""


def database_of(data: Mapping[str, Any]) -> Attributes:
    """Return the attributes that name the target's database; none where the event has no URL."""
    if "url" not in data:
        return {}
    url = make_url(data["url"])
    found: Attributes = {DB_SYSTEM: str(data["database"])}
    if url.database:
        found[DB_NAMESPACE] = url.database
    if url.host:
        found["server.address"] = url.host
    if url.port:
        found["server.port"] = url.port
    return found


def attributes_of(event: Event) -> Attributes:
    """Return an event's data as attributes, without values that an attribute cannot hold."""
    found: Attributes = {}
    for key, value in event.data.items():
        if key in _LEFT_OUT:
            continue
        if isinstance(value, str | bool | int | float):
            found[f"automigrator.{key}"] = value
        elif isinstance(value, list) and all(isinstance(each, str) for each in value):
            found[f"automigrator.{key}"] = tuple(value)
    return found


def error_of(event: Event) -> tuple[str, str] | None:
    """Return the type and the text of the error that an event reports; None without one."""
    data = event.data
    if event.name in CUTTING:
        return data["kind"], data["message" if event.name == "failed" else "what"]
    if event.name.endswith("-failed"):
        return data["error"], data["message"]
    if data.get("outcome") not in ("failed", "degraded"):
        return None
    failures = data.get("failures")
    kind = failures[-1]["kind"] if failures else data.get("error") or data["outcome"]
    return kind, failures[-1]["message"] if failures else ""

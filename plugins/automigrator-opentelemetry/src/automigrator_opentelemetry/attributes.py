"""What spans and metrics say of an event: the conventions' names where there are any."""

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
"""What ends all that an attempt has begun, with an error."""

_LEFT_OUT = frozenset({"database", "url", "error", "statement", "advice", "failures", "notes"})
"""Told under the conventions' names, or too long, or what may hold a literal of someone's."""


def database_of(data: Mapping[str, Any]) -> Attributes:
    """Which database a target is; nothing where the event does not say."""
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
    """An event's data as attributes; what an attribute cannot hold is left out."""
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
    """The type and the text of the error that an event tells of; None when all is well."""
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

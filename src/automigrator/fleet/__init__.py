"""Fleets: many tenants, each a database or a schema of its own, brought to one revision."""

from automigrator.fleet.fleet import Fleet
from automigrator.fleet.middleware import TenantGate
from automigrator.fleet.report import FleetError, FleetReport, TenantReport
from automigrator.fleet.sources import databases, files, schemas
from automigrator.fleet.tenants import SourceError, Tenant

__all__ = [
    "Fleet",
    "FleetError",
    "FleetReport",
    "SourceError",
    "Tenant",
    "TenantGate",
    "TenantReport",
    "databases",
    "files",
    "schemas",
]

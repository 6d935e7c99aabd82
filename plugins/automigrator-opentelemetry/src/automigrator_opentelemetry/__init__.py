"""Spans and metrics of automigrator's runs, through OpenTelemetry's API."""

from automigrator_opentelemetry.plugin import OpenTelemetry

__all__ = ["OpenTelemetry"]

"""Metrics of every run in Prometheus's format, by its own client library (extra `prometheus`).

A plugin, and what the gate serves as `/metrics`.
"""

from automigrator.errors import ConfigurationError

try:
    import prometheus_client  # noqa: F401
except ModuleNotFoundError as error:
    raise ConfigurationError(
        "metrics for Prometheus need prometheus_client, which is not installed; nothing was done: "
        'pip install "automigrator[prometheus]"'
    ) from error

from automigrator.prometheus.metrics import Metrics

__all__ = ["Metrics"]

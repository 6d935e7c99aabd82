"""What a scrape of the metrics reads, as values by name and labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from automigrator.prometheus import Metrics


def samples(body: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of a text exposition, by its name and its sorted labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


@dataclass
class Scraped:
    """Metrics in a registry of their own, read as Prometheus reads them."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.registry)

    def samples(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        return samples(self.metrics.answer()[0])

    def value(self, name: str, **labels: str) -> float | None:
        """One sample's value; `name` is without `automigrator_`. None where it is not exposed."""
        return self.samples().get((f"automigrator_{name}", tuple(sorted(labels.items()))))

    def labelled(self, name: str, wanted: float | None = None) -> list[Any]:
        """The labels of each sample of that name, without those of another value than wanted."""
        return [
            dict(labels)
            for (found, labels), value in self.samples().items()
            if found == f"automigrator_{name}" and (wanted is None or value == wanted)
        ]

    def outcome(self, target: str = "app") -> list[str]:
        """Every outcome that the target's last run is said to have."""
        told = self.labelled("last_run_outcome", 1)
        return [each["outcome"] for each in told if each["target"] == target]

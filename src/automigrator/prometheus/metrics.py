"""The metrics of runs: fed by events, answered in the formats that Prometheus asks for."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from automigrator.events.event import Event
from automigrator.hooks.spec import hookimpl
from automigrator.prometheus.instruments import FOLDER
from automigrator.prometheus.recorder import recorder_of
from automigrator.support.loggers import logger_of
from automigrator.support.redaction import first_line

logger = logger_of(__name__)

_CONTENT_TYPE = re.compile(r"[\w/.; =-]+", re.ASCII)


class Metrics:
    """Counts and measures runs for Prometheus: `Migrator(plugins=[Metrics()])`.

    One object may serve several migrators, threads and loops. Objects of one registry share its
    instruments, and a run that two of them are told of counts once.

    Arguments:
        registry: where the instruments are; default: prometheus_client's own, in which those of
            the application are, too.

    Raises ConfigurationError.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._registry = REGISTRY if registry is None else registry
        self._recorder = recorder_of(self._registry)
        self._logged = False

    @hookimpl
    def on_event(self, event: Event) -> None:
        """Follow a run as a plugin."""
        self.follow(event)

    def follow(self, event: Event) -> None:
        """Count and measure an event. Raises nothing: the first error is logged."""
        try:
            self._recorder.record(event, self)
        except Exception as error:  # noqa: BLE001 - a metric must not stop a run
            if not self._logged:
                self._logged = True
                logger.error(
                    "no metric of %s: %s; the run goes on, later errors are not logged",
                    event.name,
                    first_line(error),
                )

    def ready(self, ready: bool) -> None:
        """Say whether the application serves; the gate does. Raises what the registry raises."""
        self._recorder.ready(ready)

    def answer(self, accept: str = "", names: Iterable[str] = ()) -> tuple[bytes, str]:
        """Return the metrics, and their content type.

        With `PROMETHEUS_MULTIPROC_DIR` they are those of every process that shares the folder: it
        reads their files, so call it in a thread.

        Arguments:
            accept: the request's header `Accept`; default: Prometheus's text format.
            names: the parameters `name[]`: samples to be told alone; default: all.

        Raises what the application's own collectors raise.
        """
        registry = self._registry
        if FOLDER in os.environ:
            registry = CollectorRegistry(support_collectors_without_names=True)
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # it ships no types
        encode, content_type = _encoder(accept)
        chosen = tuple(names)
        return encode(registry.restricted_registry(chosen) if chosen else registry), content_type


def _encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    """Choose the format; what is not understood is not repeated, and gets the plain one."""
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is no number
        return choose_encoder("")
    return (encode, content_type) if _CONTENT_TYPE.fullmatch(content_type) else choose_encoder("")

"""The spans of one run: events start and end them, at the events' own times."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from opentelemetry import context, trace
from opentelemetry.trace import Status, StatusCode

from automigrator import Event
from automigrator.events.catalogue import CATALOGUE
from automigrator_opentelemetry.attributes import (
    CUTTING,
    RUN,
    TARGET,
    Attributes,
    attributes_of,
    database_of,
    error_of,
)

ROOTS = frozenset({"run-started", "rollback-started"})
"""Events that open a trace."""

LAST = frozenset({"run-finished", "rollback-finished"})
"""Events that end a trace, with every span that is still open."""


@dataclass(slots=True)
class Facts:
    """Facts about a run that the metrics need later."""

    mode: str = ""
    databases: dict[str, Attributes] = field(default_factory=dict)
    pending: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Open:
    began: str
    span: trace.Span


class RunTrace:
    """The open spans of one run, innermost last: those of the run, and those of each target."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self.facts = Facts()
        self._tracer = tracer
        self._outside = context.get_current()
        self._root: list[_Open] = []
        self._targets: dict[str, list[_Open]] = {}

    def record(self, event: Event) -> None:
        """Start, end or annotate a span. Raises the errors of span processors."""
        declared = CATALOGUE.get(event.name)
        ends = declared.ends if declared is not None else ()
        stack = self._stack(event)
        if event.name == "waiting" or event.name.endswith("-started"):
            if not (stack and stack[-1].began == event.name == "waiting"):
                self._begin(event, stack)
            return
        first = 0 if event.name in LAST else _first(event, stack, ends)
        if first is None or event.name in CUTTING:
            self._annotate(event, stack)
        if first is not None:
            self._end(event, stack, first)

    def _stack(self, event: Event) -> list[_Open]:
        if event.target is None or event.name.startswith("rollback-"):
            return self._root
        return self._targets.setdefault(event.target, [])

    def _begin(self, event: Event, stack: list[_Open]) -> None:
        said = attributes_of(event) | {RUN: event.run}
        if event.target is not None:
            known = self.facts.databases.setdefault(event.target, database_of(event.data))
            said |= {TARGET: event.target} | known
        at = event.at
        if event.name == "waiting":
            at -= said.pop("automigrator.seconds")  # type: ignore[operator]  # it is a number
        around, within = stack or self._root, self._outside
        if around:
            within = trace.set_span_in_context(around[-1].span, within)
        span = self._tracer.start_span(
            f"automigrator.{event.name.removesuffix('-started').replace('waiting', 'wait')}",
            within,
            attributes=said,
            start_time=_ns(at),
        )
        stack.append(_Open(event.name, span))

    def _annotate(self, event: Event, stack: list[_Open]) -> None:
        """Add an event to the outermost span: others may have ended already."""
        for opened in (stack or self._root)[:1]:
            said = attributes_of(event)
            opened.span.add_event(f"automigrator.{event.name}", said, _ns(event.at))

    def _end(self, event: Event, stack: list[_Open], first: int) -> None:
        """End the span at `first`, and every span inside it."""
        ended = stack[first:]
        del stack[first:]
        if event.name in LAST:
            ended += [opened for inner in self._targets.values() for opened in inner]
            self._targets.clear()
        error = error_of(event)
        with ExitStack() as each:  # innermost first, all of them whatever one of them raises
            for opened in ended:
                each.callback(opened.span.end, _ns(event.at))
            said = attributes_of(event)
            for opened in ended if event.name in CUTTING else ended[:1]:
                opened.span.set_attributes(said)
                if error is not None:
                    opened.span.set_attribute("error.type", error[0])
                    opened.span.set_status(Status(StatusCode.ERROR, error[1] or None))


def _first(event: Event, stack: Sequence[_Open], ends: Sequence[str]) -> int | None:
    """Return the index of the span that an event ends; None when it is not open."""
    found = [place for place, opened in enumerate(stack) if opened.began in ends]
    if not found:
        return None
    return found[0] if event.name in CUTTING else found[-1]


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)

"""Grafana's dashboard: every instrument, described by the events that it comes from."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from automigrator.events.catalogue import CATALOGUE
from automigrator.prometheus.instruments import INSTRUMENTS, Instrument
from automigrator.prometheus.recorder import OUTCOMES

CHOSEN = '{job=~"$job", instance=~"$instance"}'
COLOURS = {logging.INFO: "green", logging.WARNING: "orange", logging.ERROR: "red"}
Panel = dict[str, Any]
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard(about: str) -> dict[str, Any]:
    """Return Grafana's dashboard."""
    return {
        "uid": "automigrator",
        "title": "Migrations (automigrator)",
        "description": about,
        "tags": ["automigrator", "migrations"],
        "schemaVersion": 41,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-24h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": list(variables())},
        "annotations": {"list": []},
        "links": [],
        "panels": placed(
            ("Now", list(now())),
            ("Since each process began", list(map(counted, of_kind("counter")))),
            ("How long it takes", list(map(timed, of_kind("histogram")))),
        ),
    }


def variables() -> Iterator[dict[str, Any]]:
    yield {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "options": [],
        "refresh": 1,
        "regex": "",
        "hide": 0,
    }
    of = "automigrator_last_run_timestamp_seconds"
    for name, query in (
        ("job", f"label_values({of}, job)"),
        ("instance", f'label_values({of}{{job=~"$job"}}, instance)'),
    ):
        yield {
            "name": name,
            "label": name.capitalize(),
            "type": "query",
            "datasource": SOURCE,
            "definition": query,
            "query": {"query": query, "refId": name},
            "includeAll": True,
            "multi": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
            "options": [],
            "refresh": 2,
            "regex": "",
            "sort": 1,
            "hide": 0,
        }


def now() -> Iterator[Panel]:
    """The state of every instance."""
    states = {
        "0": {"text": "not ready", "color": "red", "index": 0},
        "1": {"text": "ready", "color": "green", "index": 1},
    }
    yield panel(
        "stat",
        "Ready",
        {"{{instance}}": f"automigrator_ready{CHOSEN}"},
        options={"colorMode": "background"},
        mappings=[{"type": "value", "options": states}],
        noValue="no gate",
    )
    yield panel(
        "stat",
        "Outcome of the last run",
        {"{{target}}: {{outcome}}": f"automigrator_last_run_outcome{CHOSEN} == 1"},
        options={"colorMode": "background", "textMode": "name"},
        overrides=[
            {
                "matcher": {"id": "byRegexp", "options": f"/: {outcome}$/"},
                "properties": [{"id": "color", "value": fixed(colour_of(outcome))}],
            }
            for outcome in OUTCOMES
        ],
        noValue="no run",
    )
    yield panel(
        "stat",
        "The last run ended",
        {"{{instance}}": f"(automigrator_last_run_timestamp_seconds{CHOSEN} > 0) * 1000"},
        unit="dateTimeFromNow",
        noValue="no run",
    )
    yield panel(
        "stat",
        "Run under way",
        {"{{instance}}": f"time() - (automigrator_run_started_timestamp_seconds{CHOSEN} > 0)"},
        unit="s",
        noValue="none",
    )
    yield panel(
        "timeseries",
        "Revisions of the runs under way",
        {
            "{{instance}}: done": f"automigrator_run_revisions_done{CHOSEN}",
            "{{instance}}: of": f"automigrator_run_revisions{CHOSEN}",
        },
    )
    yield panel(
        "timeseries",
        "Pending revisions",
        {"{{instance}}: {{target}}": f"automigrator_pending_revisions{CHOSEN}"},
    )
    yield panel(
        "timeseries",
        "Waiting",
        {"{{instance}}: {{on}}": f"automigrator_waiting_seconds{CHOSEN}"},
        unit="s",
    )


def counted(each: Instrument) -> Panel:
    """A counter by its labels; no rate, as a migration is over before it is scraped first."""
    legend = " ".join(f"{{{{{label}}}}}" for label in each.labels)
    summed = f"sum by ({', '.join(each.labels)}) ({each.name}{CHOSEN})"
    return panel("timeseries", each.text, {legend: summed}, noValue="0")


def timed(each: Instrument) -> Panel:
    """The median and the 95th percentile of what the processes that live have measured."""
    by = ", ".join(["le", *each.labels])
    legend = "".join(f" {{{{{label}}}}}" for label in each.labels)
    shown = {
        f"{name}{legend}": f"histogram_quantile({quantile}, sum by ({by}) "
        f"({each.name}_bucket{CHOSEN}))"
        for name, quantile in (("median", 0.5), ("95 %", 0.95))
    }
    return panel("timeseries", each.text, shown, unit="s", noValue="none")


def panel(
    kind: str,
    title: str,
    shown: Mapping[str, str],
    *,
    options: Mapping[str, Any] | None = None,
    overrides: list[Any] | None = None,
    **defaults: Any,
) -> Panel:
    """A panel that shows expressions, each by the form of its legend."""
    usual: dict[str, Any] = {"legend": {"displayMode": "list", "placement": "bottom"}}
    if kind == "stat":
        usual = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
        usual |= {"colorMode": "none", "graphMode": "none", "textMode": "auto"}
    expressions = " ".join(shown.values())
    return {
        "type": kind,
        "title": title,
        "description": described(expressions),
        "datasource": SOURCE,
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": SOURCE,
                "editorMode": "code",
                "expr": expression,
                "legendFormat": legend,
                "range": kind != "stat",
                "instant": kind == "stat",
            }
            for number, (legend, expression) in enumerate(shown.items())
        ],
        "fieldConfig": {
            "defaults": {"color": {"mode": "palette-classic"}, **defaults},
            "overrides": overrides or [],
        },
        "options": {**usual, **(options or {})},
    }


def described(expressions: str) -> str:
    """What the instruments of a panel measure, and the events they come from."""
    told = []
    for each in INSTRUMENTS:
        if used(each, expressions):
            events = ", ".join(name for name in CATALOGUE if name in each.events)
            told.append(f"{each.text} ({f'events: {events}' if events else 'told by the gate'}).")
    return " ".join(told)


def used(each: Instrument, expressions: str) -> bool:
    """Whether an expression has a sample of the instrument."""
    ends = "_bucket" if each.kind == "histogram" else ""
    return f"{each.name}{ends}{{" in expressions


def placed(*rows: tuple[str, list[Panel]]) -> list[Panel]:
    """Give every panel its place: rows of three, below a title."""
    found: list[Panel] = []
    top = 0
    for title, panels in rows:
        place = {"h": 1, "w": 24, "x": 0, "y": top}
        found.append({"type": "row", "title": title, "gridPos": place, "collapsed": False})
        found[-1]["panels"] = []
        top += 1
        for number, each in enumerate(panels):
            line, column = divmod(number, 3)
            place = {"h": 7, "w": 8, "x": 8 * column, "y": top + 7 * line}
            found.append({**each, "gridPos": place})
        top += 7 * -(-len(panels) // 3)
    return [{"id": number, **each} for number, each in enumerate(found, 1)]


def of_kind(kind: str) -> list[Instrument]:
    return [each for each in INSTRUMENTS if each.kind == kind]


def colour_of(outcome: str) -> str:
    return COLOURS[CATALOGUE["run-finished"].level_for({"outcome": outcome})]


def fixed(colour: str) -> dict[str, str]:
    return {"mode": "fixed", "fixedColor": colour}

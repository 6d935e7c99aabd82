"""The JSON Schema of what `--json` prints, made from the types of the answers."""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from automigrator import cli
from automigrator.backends.contract.examiner import Copy, Debris
from automigrator.backends.contract.snapshots import Snapshot
from automigrator.cli.output import VERSION
from automigrator.cli.plugins import Plugin
from automigrator.exits import Exit
from automigrator.failure import Failure, FailureKind, State
from automigrator.fleet.report import FleetReport
from automigrator.fleet.status import FleetPlan, FleetStatus, LedgerStatus
from automigrator.measurement import Measurement
from automigrator.rehearsed import Rehearsed
from automigrator.report import Report
from automigrator.runner.operations.checkup import Checkup, TargetCheckup
from automigrator.runner.operations.snapshots import Restored
from automigrator.status import Plan, Plans, Status, TargetStatus

FILE = Path(cli.__file__).parent / "schema.json"

PAUSED = {"paused": bool}

RESULTS: dict[str, Any] = {
    "run": Report,
    "wait": (Report, Status),
    "check": Status,
    "status": Status,
    "plan": Plans,
    "rehearse": Rehearsed,
    "rollback": Report,
    "clear": {"cleared": [str]},
    "accept": {"accepted": dict[str, list[str]]},
    "doctor": Checkup,
    "snapshots list": {"targets": [{"name": str, "snapshots": [Snapshot]}]},
    "snapshots take": {"targets": [{"name": str, "snapshot": Snapshot}]},
    "snapshots restore": Restored,
    "snapshots prune": {"targets": [{"name": str, "deleted": [str]}]},
    "schema dump": {"file": str},
    "schema check": {"differences": [str]},
    "plugins": {"plugins": [Plugin]},
    "explain": (
        {"kind": FailureKind, "meaning": str, "situations": [dict[str, str]], "counts": bool},
        {"kinds": dict[str, str]},
    ),
    "fleet run": FleetReport,
    "fleet check": FleetStatus,
    "fleet plan": FleetPlan,
    "fleet status": LedgerStatus,
    "fleet retry": {"released": [str]},
    "fleet quarantine": {"quarantined": dict[str, str]},
    "fleet pause": PAUSED,
    "fleet resume": PAUSED,
}
"""What each command answers, a type or its keys; a tuple has one or the other."""

ADDED: dict[type, tuple[str, ...]] = {
    Report: ("outcome",),
    TargetStatus: ("current",),
    Status: ("current",),
    Plans: ("pending",),
    Checkup: ("healthy",),
    TargetCheckup: ("healthy",),
    Snapshot: ("at", "whole"),
    FleetReport: ("outcome", "counts"),
    FleetStatus: ("current", "counts"),
    FleetPlan: ("pending",),
}
"""Properties that `to_dict` has beside the fields."""

LEFT_OUT: dict[type, set[str]] = {
    Snapshot: {"stamp"},
    Debris: {"object", "rebuilds"},
    TargetCheckup: {"status", "record"},
}
"""Fields that `to_dict` has not."""

OTHERWISE: dict[type, dict[str, Any]] = {
    Failure: {"error": str | None},
    FleetPlan: {"groups": [{"tenants": [str], "plan": Plan}]},
    TargetCheckup: {
        "failed_starts": int,
        "last_outcome": str | None,
        "last_failures": [dict[str, Any]],
    },
}
"""Keys whose type in JSON is not that of a field."""

WITH: dict[type, type] = {TargetCheckup: TargetStatus}
"""Whose keys an answer has as well."""

NAMES = {each.__name__: each for each in (Failure, Measurement, Copy, Debris)} | {"State": State}
"""What annotations name that their modules import for the type checker alone."""

PLAIN: dict[Any, dict[str, Any]] = {
    Any: {},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    NoneType: {"type": "null"},
    datetime: {"type": "string", "format": "date-time"},
}
OPTION = re.compile(r"(?:^|(?<=[.;] ))((?:`\w+`)(?:,\s`\w+`)*): ")
"""How a docstring begins to tell of a field, or of several."""


def schema() -> dict[str, Any]:
    """The schema of the document, and of each value in it."""
    types: dict[str, Any] = {}
    parts = [
        {
            "if": {"properties": {"command": {"const": command}}},
            "then": {"properties": {"result": _of(_or_none(answer), types)}},
        }
        for command, answer in RESULTS.items()
    ]
    error = {"type": str, "message": str, "advice": str | None}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:automigrator:command:{VERSION}",
        "title": "What a command of automigrator prints with --json",
        "type": "object",
        "required": ["version", "command", "exit_code", "outcome", "result", "error"],
        "properties": {
            "version": {"const": VERSION},
            "command": {"enum": ["", "fleet", "snapshots", "schema", *RESULTS]},
            "exit_code": {"enum": sorted(map(int, Exit))},
            "outcome": {"enum": sorted({each.outcome for each in Exit})},
            "result": {},
            "error": {"anyOf": [_object(error, {}, types), PLAIN[NoneType]]},
        },
        "allOf": parts,
        "$defs": dict(sorted(types.items())),
    }


def _or_none(answer: Any) -> tuple[Any, ...]:
    return (*(answer if isinstance(answer, tuple) else (answer,)), NoneType)


def _of(kind: Any, types: dict[str, Any]) -> dict[str, Any]:
    """The schema of a type; those of ours are put into `types`, and referred to."""
    if isinstance(kind, dict):
        return _object(kind, {}, types)
    if isinstance(kind, list):
        return {"type": "array", "items": _of(kind[0], types)}
    if isinstance(kind, tuple):
        parts = [_of(each, types) for each in kind]
        if all(part.keys() == {"type"} for part in parts):
            return {"type": [part["type"] for part in parts]}
        return {"anyOf": parts}
    if kind in PLAIN:
        return PLAIN[kind]
    origin, given = get_origin(kind), get_args(kind)
    if origin is Literal:
        return {"enum": list(given)}
    if origin in (Union, UnionType):
        return _of(given, types)
    if origin is list:
        return _of([given[0]], types)
    if origin is tuple:
        return _of([given[0]], types)
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": _of(given[1], types)}
    if kind.__name__ not in types:
        types[kind.__name__] = {}  # one that holds itself comes here again
        described = _described(_first_paragraph(inspect.getdoc(kind)))
        types[kind.__name__] = described | _object(_keys(kind), _meanings(kind), types)
    return {"$ref": f"#/$defs/{kind.__name__}"}


def _object(
    keys: Mapping[str, Any], meanings: Mapping[str, str], types: dict[str, Any]
) -> dict[str, Any]:
    properties = {
        name: _of(kind, types) | _described(meanings.get(name, "")) for name, kind in keys.items()
    }
    return {"type": "object", "required": list(keys), "properties": properties}


def _described(meaning: str) -> dict[str, str]:
    return {"description": meaning} if meaning else {}


def _keys(kind: Any) -> dict[str, Any]:
    """The keys of what `to_dict` returns, and the type of each."""
    hints = get_type_hints(kind, None, NAMES)
    found = _keys(WITH[kind]) if kind in WITH else {}
    found |= {name: hints[name] for name in kind.fields()}
    for name in ADDED.get(kind, ()):
        getter = getattr(kind, name).fget
        found[name] = get_type_hints(getter, None, NAMES)["return"]
    found |= OTHERWISE.get(kind, {})
    return {name: hint for name, hint in found.items() if name not in LEFT_OUT.get(kind, ())}


def _meanings(kind: Any) -> dict[str, str]:
    """What the code says of each key: under the field, in the property, or in the class."""
    found = _meanings(WITH[kind]) if kind in WITH else {}
    text = " ".join(inspect.getdoc(kind).split("\n\n", 1)[-1].split())
    _, *parts = OPTION.split(text)
    for names, told in zip(parts[::2], parts[1::2], strict=True):
        found |= dict.fromkeys(re.findall(r"\w+", names), told.strip(" ;"))
    found |= dict(_under_fields(kind))
    for name in ADDED.get(kind, ()):
        found[name] = _first_paragraph(inspect.getdoc(getattr(kind, name)))
    return found


def _under_fields(kind: type) -> Iterator[tuple[str, str]]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    for field, after in zip(definition.body, definition.body[1:], strict=False):
        match field, after:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                yield name, " ".join(text.split())


def _first_paragraph(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split())


def _closed(part: Any) -> Any:
    """The schema without room for keys that it does not name."""
    if isinstance(part, list):
        return [_closed(each) for each in part]
    if not isinstance(part, dict):
        return part
    closed = {name: _closed(each) for name, each in part.items()}
    # an answer's keys are all in one place, so that nothing else has to be looked at
    return {**closed, "additionalProperties": False} if "required" in part else closed


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(_closed(json.loads(FILE.read_text("utf-8"))))


def misfit(document: object) -> str:
    """How a document is not as the schema says, a key that it does not name included; or empty."""
    found = [leaf for error in _validator().iter_errors(document) for leaf in _leaves(error)]
    deepest = max(found, key=lambda each: len(each.absolute_path), default=None)
    return f"{deepest.json_path}: {deepest.message}" if deepest is not None else ""


def _leaves(error: ValidationError) -> Iterator[ValidationError]:
    """The errors that one of several choices is made of."""
    for each in error.context or ():
        yield from _leaves(each)
    if not error.context:
        yield error

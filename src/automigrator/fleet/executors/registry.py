"""Executors: those of the core and installed ones, found by the name that a fleet gives."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from automigrator.errors import ConfigurationError, PluginError
from automigrator.fleet.executors.contract import Executor
from automigrator.support.entry_points import Installed, made, normalised

ENTRY_POINT_GROUP = "automigrator.executors"

BUILT_IN = {
    "local": "automigrator.fleet.executors.local:Local",
    "processes": "automigrator.fleet.executors.processes:Processes",
    "shards": "automigrator.fleet.executors.shards:Shards",
    "claims": "automigrator.fleet.executors.claims:Claims",
}
"""The core's own, which are imported when they are named."""

OURS = ("dask",)
"""Those that are released with the core."""

ExecutorSpec = str | tuple[str, Mapping[str, Any]] | Executor
"""An executor's name, its name with options, or an Executor."""


def load(spec: ExecutorSpec) -> Executor:
    """Make the executor that a fleet names; an Executor is returned as it is.

    Imports only what is named. Raises ConfigurationError for a malformed `spec`, PluginError for
    an executor that is missing, ambiguous, broken or wrongly configured.
    """
    match spec:
        case str() as name:
            return _made(name, {})
        case (str() as name, Mapping() as options) if all(isinstance(k, str) for k in options):
            return _made(name, options)
        case Executor():
            return spec
    if inspect.isclass(spec) and issubclass(spec, Executor):
        name = spec.__name__
        raise PluginError(f"{name} is a class, not an executor: pass {name}(...), not {name}")
    raise ConfigurationError(
        f"executor= is a {type(spec).__qualname__}; it takes a name, a pair like "
        '("processes", {"workers": 4}), or an Executor'
    )


def _made(name: str, options: Mapping[str, Any]) -> Executor:
    if normalised(name) in BUILT_IN:
        module, _, attribute = BUILT_IN[normalised(name)].partition(":")
        what = f"executor {name!r}"
        executor = made(getattr(import_module(module), attribute), options, what, what)
    else:
        built_in = tuple(sorted(BUILT_IN))
        installed = Installed(ENTRY_POINT_GROUP, "executor", built_in=built_in, ours=OURS)
        executor = installed.make(name, options)
    if not isinstance(executor, Executor):
        raise PluginError(
            f"executor {name!r} makes a {type(executor).__qualname__}, which is no Executor; "
            "nothing was changed"
        )
    return executor

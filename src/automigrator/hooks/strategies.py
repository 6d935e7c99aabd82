"""Recovery strategies: found by the names that the configuration gives, and built."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from automigrator.errors import ConfigurationError, PluginError
from automigrator.hooks.effects import acts_on_python_errors, effect_of
from automigrator.support.entry_points import Installed, normalised

ENTRY_POINT_GROUP = "automigrator.recovery"

OURS = ("backup-restore", "log-and-continue", "purge")
"""Those that are released with the core."""

StrategySpec = str | tuple[str, Mapping[str, Any]] | object

"""An installed strategy's name, its name with options, or a strategy object."""


def load(specs: Sequence[StrategySpec]) -> tuple[tuple[str, object], ...]:
    """Build the configured strategies, in order, each with the name that messages give it.

    Imports only what is named. Raises ConfigurationError for a malformed list, PluginError for a
    strategy that is missing, ambiguous, broken or wrongly configured.
    """
    if isinstance(specs, str):
        raise ConfigurationError(f"recovery={specs!r} is not a list; write recovery=[{specs!r}]")
    if not isinstance(specs, Sequence):
        kind = type(specs).__qualname__
        raise ConfigurationError(f"recovery= takes a list of strategies, not a {kind}")
    installed = Installed(ENTRY_POINT_GROUP, "recovery strategy", ours=OURS)
    strategies = tuple(_strategy(installed, spec) for spec in specs)
    for _, strategy in strategies:
        effect_of(strategy)
        acts_on_python_errors(strategy)
    return strategies


def _strategy(installed: Installed, spec: StrategySpec) -> tuple[str, object]:
    if isinstance(spec, str):
        return normalised(spec), installed.make(spec, {})
    if isinstance(spec, tuple):
        match spec:
            case (str() as name, Mapping() as options) if all(isinstance(k, str) for k in options):
                return normalised(name), installed.make(name, options)
        raise ConfigurationError(
            "a tuple in recovery= is a strategy's name and its options, as in "
            '("purge", {"option": "value"})'
        )
    if spec is None or isinstance(spec, Mapping | Sequence):
        raise ConfigurationError(
            f"recovery= holds a {type(spec).__qualname__}; each strategy is a name, a pair "
            'like ("purge", {"option": "value"}), or a strategy object'
        )
    if inspect.isclass(spec):
        name = spec.__name__
        raise PluginError(f"{name} is a class, not a strategy: pass {name}(), not {name}")
    return type(spec).__qualname__, spec

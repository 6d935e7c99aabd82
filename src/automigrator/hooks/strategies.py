"""Finds the recovery strategies that are named, and what each is allowed to answer."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from automigrator.errors import ConfigurationError, PluginError
from automigrator.hooks.effects import effect_of
from automigrator.support.urls import scrubbed

ENTRY_POINT_GROUP = "automigrator.recovery"

StrategySpec = str | tuple[str, Mapping[str, Any]] | object

"""An installed strategy's name, its name with options, or a strategy object."""


def load(specs: Sequence[StrategySpec]) -> tuple[tuple[str, object], ...]:
    """The configured strategies with the names they are blamed by, in order.

    Imports nothing that is not named. Raises ConfigurationError for a malformed list, PluginError
    for a strategy that is missing, ambiguous, broken or wrongly configured.
    """
    if isinstance(specs, str):
        raise ConfigurationError(f"recovery={specs!r} is not a list; write recovery=[{specs!r}]")
    if not isinstance(specs, Sequence):
        kind = type(specs).__qualname__
        raise ConfigurationError(f"recovery= takes a list of strategies, not a {kind}")
    installed: Sequence[EntryPoint] | None = None
    strategies: list[tuple[str, object]] = []
    for spec in specs:
        named = _named(spec)
        if named is None:
            strategies.append((type(spec).__qualname__, spec))
        else:
            if installed is None:
                installed = tuple(entry_points(group=ENTRY_POINT_GROUP))
            name, options = named
            strategies.append((name, _built(_only(name, installed), options)))
    for _, strategy in strategies:
        effect_of(strategy)
    return tuple(strategies)


def _named(spec: StrategySpec) -> tuple[str, Mapping[str, Any]] | None:
    """Name and options of a strategy to be loaded; None when `spec` is a strategy already."""
    if isinstance(spec, str):
        return spec, {}
    if isinstance(spec, tuple):
        match spec:
            case (str() as name, Mapping() as options) if all(isinstance(k, str) for k in options):
                return name, options
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
    return None


def _only(name: str, installed: Sequence[EntryPoint]) -> EntryPoint:
    """The one installed entry point of that name."""
    matches = [entry for entry in installed if entry.name == name]
    if len(matches) == 1:
        return matches[0]
    if matches:
        owners = " and ".join(sorted(_distribution(entry) for entry in matches))
        raise PluginError(
            f"recovery strategy {name!r} is provided by {owners}; uninstall all but one"
        )
    names = sorted({entry.name for entry in installed})
    close = difflib.get_close_matches(name, names, n=1)
    raise PluginError(
        f"no recovery strategy {name!r} is installed"
        + (f"; did you mean {close[0]!r}? " if close else "; ")
        + (f"Installed: {', '.join(names)}. " if names else "None is installed. ")
        + f"It may come with: pip install automigrator-{name}"
    )


def _built(entry: EntryPoint, options: Mapping[str, Any]) -> object:
    try:
        strategy = entry.load()
    except Exception as error:
        raise PluginError(
            f"recovery strategy {entry.name!r} of {_distribution(entry)} cannot be imported: "
            f"{_described(error)}"
        ) from error
    if not inspect.isclass(strategy):
        raise PluginError(
            f"recovery strategy {entry.name!r} of {_distribution(entry)} is no class: "
            f"its entry point {entry.value} is a {type(strategy).__qualname__}"
        )
    _check_options(entry.name, strategy, options)
    try:
        return strategy(**options)
    except (ValueError, TypeError, ConfigurationError) as error:
        raise PluginError(
            f"recovery strategy {entry.name!r} refuses its options: {_described(error)}"
        ) from error


def _check_options(name: str, strategy: type, options: Mapping[str, Any]) -> None:
    """Raise PluginError for an option too many or too few, without repeating values."""
    signature = inspect.signature(strategy)
    try:
        signature.bind(**options)
    except TypeError as error:
        by_keyword = [
            parameter
            for parameter in signature.parameters.values()
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        ]
        accepted = [parameter.name for parameter in by_keyword]
        unknown = [option for option in options if option not in accepted]
        close = difflib.get_close_matches(unknown[0], accepted, n=1) if unknown else []
        raise PluginError(
            f"recovery strategy {name!r}: {error}; "
            + (f"did you mean {close[0]}? " if close else "")
            + (f"Its options: {', '.join(accepted)}" if accepted else "It takes no options")
        ) from error


def _distribution(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"


def _described(error: Exception) -> str:
    return f"{type(error).__qualname__}: {scrubbed(str(error))}"

"""The plugins there are: from which distribution, named by whom, and what each may do."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from automigrator.backends import registry
from automigrator.cli.options import Options
from automigrator.cli.output import Answer, json_of
from automigrator.cli.source import NOTHING, found
from automigrator.errors import ConfigurationError
from automigrator.frozen import Frozen
from automigrator.hooks import strategies
from automigrator.hooks.effects import effect_of
from automigrator.hooks.spec import Hookspecs
from automigrator.migrator import Migrator
from automigrator.printable import escaped, in_a_line
from automigrator.support.entry_points import described, normalised

MAY = {
    "none": "changes nothing",
    "reverting": "restores this run's own snapshot",
    "discarding": "replaces the database by a fresh one",
}

NOT_LOADED = "not loaded, as nobody names it"


class Plugin(Frozen):
    """One plugin."""

    name: str
    kind: str
    """`strategy`, `backend`, or `hooks` for an in-house object."""
    origin: str
    """The distribution and its version, or the module of what is in-house."""
    effect: str | None = None
    """What a strategy declares; None where it was not loaded, or is none."""
    may: str = ""
    """What it may do, for a person."""
    named_by: tuple[str, ...] = ()
    """The targets that ask it."""

    def __str__(self) -> str:
        line = f"{self.name}: {self.kind} of {self.origin}; {self.may}"
        return escaped(line + (f"; asked for {', '.join(self.named_by)}" if self.named_by else ""))


def has_no_source(options: Options) -> bool:
    """Whether nothing says which migrator: what is installed can be listed all the same."""
    try:
        found(options, os.environ, Path.cwd())
    except ConfigurationError as error:
        return str(error) == NOTHING
    return False


def listed(migrator: Migrator | None, load: bool) -> Answer:
    """The installed plugins, and those that the migrator was given."""
    there = [*_installed(migrator, load), *_given(migrator)]
    text = "\n".join(map(str, there)) or "no plugin is installed, and none is given"
    return Answer({"plugins": json_of(there)}, text, table=partial(_table, there))


def _installed(migrator: Migrator | None, load: bool) -> Iterator[Plugin]:
    named: dict[str, list[str]] = {}
    for target, specs in (migrator._recovery if migrator is not None else {}).items():
        for spec in specs:
            name = spec[0] if isinstance(spec, tuple) else spec
            if isinstance(name, str):
                named.setdefault(normalised(name), []).append(target)
    for entry in entry_points(group=strategies.ENTRY_POINT_GROUP):
        by = tuple(named.get(normalised(entry.name), ()))
        effect, may = _effect(entry) if by or load else (None, NOT_LOADED)
        yield Plugin(entry.name, "strategy", _origin(entry), effect, may, by)
    for entry in entry_points(group=registry.ENTRY_POINT_GROUP):
        may = "reads and changes databases of this kind"
        yield Plugin(entry.name, "backend", _origin(entry), None, may)


def _effect(entry: EntryPoint) -> tuple[str | None, str]:
    try:
        effect = effect_of(entry.load())
    except Exception as error:  # noqa: BLE001 - what is broken is listed as well
        return None, f"cannot be used: {in_a_line(described(error))}"
    return effect, MAY[effect]


def _given(migrator: Migrator | None) -> Iterator[Plugin]:
    """The in-house objects: strategies of a target, and hooks of all."""
    if migrator is None:
        return
    for target, specs in migrator._recovery.items():
        for spec in specs:
            if not isinstance(spec, str | tuple):
                effect = effect_of(spec)
                kind, origin = type(spec).__qualname__, type(spec).__module__
                yield Plugin(kind, "strategy", origin, effect, MAY[effect], (target,))
    for each in migrator._plugins:
        names = tuple(target.name for target in migrator.targets)
        kind, origin = type(each).__qualname__, type(each).__module__
        yield Plugin(kind, "hooks", origin, None, f"implements {_hooks_of(each)}", names)


def _hooks_of(plugin: Any) -> str:
    known = [name for name, value in vars(Hookspecs).items() if inspect.isfunction(value)]
    return ", ".join(name for name in known if hasattr(plugin, name)) or "no hook"


def _table(there: list[Plugin], cell: Callable[[object], Text]) -> Table:
    table = Table("name", "kind", "from", "may do", "asked for", box=None, header_style="bold")
    for each in there:
        cells = [each.name, each.kind, each.origin, each.may, ", ".join(each.named_by)]
        table.add_row(*map(cell, cells))
    return table


def _origin(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"

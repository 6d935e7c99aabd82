"""An application's migrator, turned to a database of the tests."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from sqlalchemy import URL

from automigrator.errors import ConfigurationError
from automigrator.migrator import Migrator


def elsewhere(
    migrator: Migrator,
    database: URL,
    *,
    target: str | None = None,
    revision: str | None = None,
    plugins: Sequence[object] = (),
    recovery: bool = True,
) -> Migrator:
    """A copy of `migrator` that brings `database` along the history of one of its targets.

    It migrates whatever the gate says, tells nobody, and leaves signals alone.
    `target`: the target's name; default: the only one. `revision`: where to; default: the
    target's. `plugins`: further ones; default: none. `recovery`: whether its strategies are
    asked; default True. Raises ConfigurationError.
    """
    names = [each.name for each in migrator.targets]
    if target is None and len(names) > 1:
        raise ConfigurationError(f"the migrator has several targets, say which: {', '.join(names)}")
    chosen = [each for each in migrator.targets if target in (None, each.name)]
    if not chosen:
        raise ConfigurationError(
            f"there is no target {target!r}; the targets are {', '.join(names)}"
        )
    turned = copy.copy(migrator) if recovery else migrator.without_recovery()
    turned.targets = (
        chosen[0]._replace(
            database=database,
            migrate_with=None,
            create=True,
            maintenance_database=None,
            revision=revision or chosen[0].revision,
        ),
    )
    vars(turned).pop("_in_house", None)
    turned._plugins, turned._hooks = (*migrator._plugins, *plugins), None
    turned._subscriptions, turned._states, turned.report = [], {}, None
    turned.mode, turned.stop_on_signals, turned.announce = "migrate", False, False
    return turned

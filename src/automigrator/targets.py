"""The targets of one Migrator: each a database that can be spoken of by name."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from automigrator.databases.access import Access
from automigrator.databases.backend import backend_for
from automigrator.errors import ConfigurationError
from automigrator.target import Target

logger = logging.getLogger("automigrator")


def validated(targets: Sequence[Target]) -> tuple[Target, ...]:
    """The targets, if they are some and can be told apart. Raises ConfigurationError."""
    if not targets:
        raise ConfigurationError("a Migrator needs at least one Target(database, config)")
    seen: dict[str, Target] = {}
    for target in targets:
        if not isinstance(target, Target):
            raise ConfigurationError(
                f"a Migrator takes Target(database, config), not a {type(target).__name__}"
            )
        if target.name in seen:
            raise ConfigurationError(
                f"two targets are named {target.name!r} ({seen[target.name].url} and "
                f"{target.url}); tell them apart with Target(..., name=...)"
            )
        seen[target.name] = target
        access = Access(target)
        backend_for(access, target.maintenance_database)
        if access.rewritten:
            logger.info(
                "%s: the URL's driver is %s; migrating with %s",
                target.name,
                target.application_url.drivername,
                access.url.drivername,
            )
    return tuple(targets)


def named(targets: Sequence[Target], name: str | None) -> Target:
    """The target of that name, or the only one. Raises ConfigurationError."""
    names = [target.name for target in targets]
    if name is None and len(names) == 1:
        return targets[0]
    if name not in names:
        said = "there are several targets" if name is None else f"there is no target {name!r}"
        raise ConfigurationError(f"{said}; say which with target=: {', '.join(names)}")
    return targets[names.index(name)]

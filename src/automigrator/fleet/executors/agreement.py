"""The fleet in a worker: found by its source, and the same as the one that the work is about."""

from __future__ import annotations

import importlib
from typing import cast

from automigrator._version import __version__
from automigrator.errors import ConfigurationError
from automigrator.fleet.executors.contract import Bringing, Work
from automigrator.support.entry_points import blamed
from automigrator.support.json_object import read


def found(source: str) -> Bringing:
    """Import the fleet at `"package.module:attribute"`, or call what is there to make it.

    Raises ConfigurationError.
    """
    module, _, name = source.partition(":")
    if not module or not name or module == "__main__":
        raise ConfigurationError(
            f"the fleet's source is {source!r}, and should be package.module:attribute, a module "
            "that a worker can import; nothing was changed"
        )
    with blamed(f"the fleet {source} cannot be imported"):
        fleet = importlib.import_module(module)
        for part in name.split("."):
            fleet = getattr(fleet, part)
        if not _is_fleet(fleet) and callable(fleet):
            fleet = fleet()
    if not _is_fleet(fleet):
        raise ConfigurationError(
            f"{source} is a {type(fleet).__qualname__}, and should be a Fleet, or a callable "
            "without arguments that returns one; nothing was changed"
        )
    return cast(Bringing, fleet)


async def agree(fleet: Bringing, work: Work, worker: str) -> None:
    """Raise ConfigurationError, which names `worker`, where its fleet is not the work's."""
    own = await fleet.work()
    for what, here, there in (
        ("automigrator", __version__, work.version),
        ("a history with the digest", own.plan, work.plan),
        ("a fleet of mode", own.mode, work.mode),
    ):
        if here != there:
            raise ConfigurationError(
                f"the worker {worker} has {what} {here}, and the fleet was started with {there}; "
                "the worker changed nothing. Deploy the same code and configuration to both"
            )


def work_of(told: object) -> Work:
    """The Work that another process wrote. Raises ConfigurationError for what is none."""
    try:
        return read(Work, told, strict=True)
    except ValueError as error:
        raise ConfigurationError(
            f"the work that was sent cannot be read: {error}; nothing was changed. Deploy the "
            "same release of automigrator everywhere"
        ) from None


def _is_fleet(found: object) -> bool:
    return all(callable(getattr(found, name, None)) for name in ("bring", "work"))

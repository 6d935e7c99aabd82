"""A tenant: a name, the target behind it, and the group that it is rolled out with."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from automigrator.errors import AutomigratorError, ConfigurationError
from automigrator.fleet.schema import is_empty
from automigrator.frozen import Frozen
from automigrator.target import Target

LONGEST_NAME = 200
"""Characters of a tenant's name: it is a key of the ledger, and shown in reports."""


class Tenant(Frozen):
    """One tenant of a fleet.

    `name`: what the fleet calls it. `target`: its database, or the schema that the target's options
    tell env.py of. `group`: the one that it is rolled out with; default: the rest. `schema`: the
    PostgreSQL schema that is all of it, in a database that it shares with others; default: none.
    """

    name: str
    target: Target
    group: str = ""
    schema: str | None = None

    async def as_base(self) -> Tenant | None:
        """This tenant with every revision to run, where its schema is empty; None where not.

        Tables that all tenants share, without a history of their own, are no reason to refuse it.
        """
        if self.schema is None or self.target.baseline is not None:
            return None
        if not await is_empty(self.target, self.schema):
            return None
        return self._replace(target=self.target._replace(baseline="base"))

    @property
    def server(self) -> str:
        """What bounds its concurrency: a server's host and port, or the device of a file."""
        url = self.target.application_url
        if url.get_backend_name() != "sqlite":
            return f"{url.host or 'localhost'}:{url.port or ''}"
        folder = os.path.dirname(os.path.abspath(url.database or ""))
        try:
            return f"device {os.stat(folder).st_dev}"
        except OSError:
            return f"folder {folder}"


class Refusal(Frozen):
    """A tenant that a source has found, and that cannot be one: it is reported as failed."""

    name: str
    why: str
    advice: str = ""


Found = Tenant | Refusal


class SourceError(AutomigratorError):
    """Raised when the tenants cannot be read; none of them was touched."""


@runtime_checkable
class Source(Protocol):
    """Where tenants come from: every `async for` over it reads anew."""

    def __aiter__(self) -> AsyncIterator[Tenant | Target | Refusal]:
        """Yield each tenant."""


@runtime_checkable
class Making(Protocol):
    """A source that knows the tenant of a name, also of one that is not there yet.

    `models`: targets that have the files of all its tenants.
    """

    models: Sequence[Target]

    def tenant(self, name: str) -> Tenant:
        """The tenant of that name. Raises ConfigurationError for a name that none can have."""


Tenants = Iterable[Tenant | Target] | Source | Callable[[], AsyncIterator[Tenant | Target]]
"""What a Fleet takes: a list, an object that is iterated anew each time, or a function."""


def why_no_name(name: object) -> str:
    """Say why a text cannot name a tenant; empty where it can."""
    if not isinstance(name, str) or not name:
        return "a tenant's name is a text, and not empty"
    if len(name) > LONGEST_NAME:
        return f"its name is longer than {LONGEST_NAME} characters"
    if not name.isprintable():
        return "its name has characters that cannot be printed"
    return "its name begins or ends with a space" if name != name.strip() else ""


def read(tenants: Tenants) -> Source:
    """A source of what a Fleet was given. Raises ConfigurationError."""
    if isinstance(tenants, Source):
        if isinstance(tenants, AsyncIterator):
            raise ConfigurationError(
                "the tenants are an async iterator, which can be read only once: pass the function "
                "that makes it, without calling it, or an object with __aiter__"
            )
        return tenants
    if callable(tenants):
        return _Called(tenants)
    if isinstance(tenants, str | bytes) or not isinstance(tenants, Iterable):
        raise ConfigurationError(
            f"a Fleet takes a list of targets, a source such as schemas(...), or a function that "
            f"returns an async iterator, not a {type(tenants).__name__}"
        )
    return Listed(tenants)


class Listed:
    """Tenants that are known by name beforehand. Raises ConfigurationError for a wrong one."""

    def __init__(self, given: Iterable[Tenant | Target]) -> None:
        self._tenants: dict[str, Tenant] = {}
        for each in given:
            found = settled(each)
            if isinstance(found, Refusal):
                raise ConfigurationError(f"{found.name!r} names no tenant: {found.why}")
            if found.name in self._tenants:
                raise ConfigurationError(
                    f"two tenants are named {found.name!r}; tell them apart with "
                    "Target(..., name=...)"
                )
            self._tenants[found.name] = found

    async def __aiter__(self) -> AsyncIterator[Tenant]:
        for each in self._tenants.values():
            yield each


class _Called:
    """What a function yields, each time anew."""

    def __init__(self, function: Callable[[], AsyncIterator[Tenant | Target]]) -> None:
        self._function = function

    def __aiter__(self) -> AsyncIterator[Tenant | Target]:
        made: Any = self._function()
        if not hasattr(made, "__aiter__"):
            raise ConfigurationError(
                "the function that a Fleet was given returns no async iterator, but a "
                f"{type(made).__name__}; nothing was done"
            )
        return aiter(made)


def settled(found: object) -> Found:
    """A tenant of what a source yields; a target makes one of its own name."""
    if isinstance(found, Refusal):
        return found
    if isinstance(found, Target):
        found = Tenant(found.name, found)
    if not isinstance(found, Tenant):
        raise ConfigurationError(
            f"a source of tenants yields Target or Tenant, not a {type(found).__name__}"
        )
    if why := why_no_name(found.name):
        return Refusal(found.name, why)
    if found.target.name == found.name:
        return found
    return found._replace(target=found.target._replace(name=found.name))


async def all_of(source: Source) -> AsyncIterator[Found]:
    """Each tenant of a source once; a second one of the same name is refused."""
    seen: set[str] = set()
    async for each in source:
        found = settled(each)
        if found.name in seen:
            found = Refusal(found.name, "two tenants have this name", "give each its own name")
        seen.add(found.name)
        yield found

"""The tenants of a fleet, as this process knows them: their targets, plans and outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable

from automigrator.errors import ConfigurationError, RefusedError
from automigrator.fleet.control import Control, identity_of
from automigrator.fleet.digest import key_of, plan_of
from automigrator.fleet.report import SERVES, TenantOutcome
from automigrator.fleet.tenants import Found, Making, Refusal, Source, Tenant, all_of
from automigrator.support.loggers import logger_of
from automigrator.support.redaction import first_line
from automigrator.target import Target

logger = logger_of("automigrator.fleet")


class Members:
    """Tenants by name. What is remembered of one is its target, its plan's digest, its outcome."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.known: dict[str, Found] = {}
        self.was_read = False
        self._plans: dict[tuple[object, ...], str] = {}
        self._outcomes: dict[str, TenantOutcome] = {}
        self._changed = asyncio.Event()
        self._reading = asyncio.Lock()

    async def read(self) -> tuple[list[Tenant], list[Refusal]]:
        """Read the source, once; the plans' files are read anew, too. Raises what it raises."""
        async with self._reading:
            tenants: list[Tenant] = []
            refused: list[Refusal] = []
            async for each in all_of(self.source):
                if isinstance(each, Tenant):
                    tenants.append(each)
                else:
                    refused.append(each)
            self.known = {each.name: each for each in refused}
            self.known |= {each.name: each for each in tenants}
            self.was_read = True
            self._plans.clear()
        return tenants, refused

    async def get(self, name: str) -> Tenant:
        """The tenant of a name; the source is read where none is known.

        Raises ConfigurationError.
        """
        if name not in self.known:
            if isinstance(self.source, Making):
                tenant = self.source.tenant(name)
                self.known[name] = tenant
                return tenant
            await self.read()
        found = self.known.get(name)
        if isinstance(found, Tenant):
            return found
        if found is not None:
            raise ConfigurationError(f"{name!r} names no tenant: {found.why}")
        raise ConfigurationError(f"the fleet has no tenant {name!r}")

    async def ensure(self, *names: str) -> None:
        """Raise ConfigurationError for a name that the source does not have now."""
        if any(name not in self.known for name in names):
            await self.read()
        if unknown := [name for name in names if name not in self.known]:
            raise ConfigurationError(f"the fleet has no tenant {unknown[0]!r}; nothing was done")

    def add(self, tenant: Tenant) -> None:
        """Count a tenant in that was just made."""
        self.known[tenant.name] = tenant

    def forget(self, tenant: Tenant) -> None:
        """Take back `add`."""
        if self.known.get(tenant.name) is tenant:
            del self.known[tenant.name]

    async def plan(self, target: Target) -> str:
        """The digest of what a target's migration may run, read once a run for each history."""
        key = key_of(target)
        if key not in self._plans:
            self._plans[key] = await plan_of(target)
        return self._plans[key]

    # What became of them.

    def outcome(self, name: str) -> TenantOutcome | None:
        """How a tenant's last run in this process ended; None where it had none."""
        return self._outcomes.get(name)

    def ready(self, name: str) -> bool:
        """Whether the application may serve a tenant."""
        return self._outcomes.get(name) in SERVES

    def note(self, name: str, outcome: TenantOutcome) -> None:
        """Remember how a tenant's run ended, and wake who waits for it."""
        if outcome == "not-run" and name in self._outcomes:
            return
        self._outcomes[name] = outcome
        self._changed.set()
        self._changed = asyncio.Event()

    async def until_changed(self) -> None:
        """Wait until the outcome of some tenant is another one."""
        await self._changed.wait()


class Apart:
    """Proves that no tenant lives in the control database, by what the databases say themselves.

    A server is asked once; only where it is the control database's own, each database is.
    """

    def __init__(self, control: Control | None) -> None:
        self._control = control
        self._own: Hashable = None
        self._servers: dict[str, bool] = {}
        self._seen: set[str] = set()

    async def ensure_all(self, tenants: Iterable[Tenant]) -> None:
        """Raise RefusedError where a tenant lives there that can be asked.

        One that does not answer is not migrated either, and `ensure` is called before it is.
        """
        for each in tenants:
            try:
                await self.ensure(each)
            except RefusedError as error:
                raise RefusedError(f"{each.name}: {error}") from None
            except Exception as error:  # noqa: BLE001 - it is met again by the tenant's own run
                logger.debug("%s was not asked where it is: %s", each.name, first_line(error))

    async def ensure(self, tenant: Tenant) -> None:
        """Raise RefusedError for a tenant in the control database, and what connecting raises."""
        control, url = self._control, tenant.target.application_url
        if control is None or url.get_backend_name() != control.kind:
            return
        if self._own is None:
            self._own = await control.identity()
        if control.kind != "sqlite":
            place = f"{tenant.server}/{url.database}"
            if place in self._seen or self._servers.get(tenant.server) is False:
                return
            found = await identity_of(tenant.target)
            self._servers.setdefault(tenant.server, _server(found) == _server(self._own))
            self._seen.add(place)
        else:
            found = await identity_of(tenant.target)
        if found == self._own:
            self._seen.discard(f"{tenant.server}/{url.database}")
            raise RefusedError(
                f"control= names a tenant's own database ({control.where}), and nothing of the "
                "fleet's may be there; this tenant was not changed. Give the ledger a database of "
                "its own, or a SQLite file"
            )


def _server(identity: Hashable) -> object:
    return identity[1:] if isinstance(identity, tuple) else identity

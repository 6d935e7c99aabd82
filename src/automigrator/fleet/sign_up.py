"""A new tenant at sign-up: a copy of a template at head, or revisions run into a new schema."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable

from sqlalchemy import URL

from automigrator.backends.access import Access
from automigrator.backends.registry import backend_for
from automigrator.errors import ConfigurationError, MigrationError, RefusedError
from automigrator.fleet.progress import quietly
from automigrator.fleet.report import TenantReport
from automigrator.fleet.schema import make, unmark
from automigrator.fleet.tenants import Tenant
from automigrator.migrator import Migrator
from automigrator.support.redaction import hide_secrets
from automigrator.target import Target, passwords_of

Bring = Callable[[str], Awaitable[TenantReport]]

_RESERVED = re.compile("public|information_schema|automigrator|pg_.*|.*__automigrator_.*")


class SignUp:
    """Makes new tenants. `migrator_of` makes a tenant's migrator, `bring` brings one to head."""

    def __init__(self, migrator_of: Callable[[Tenant], Migrator], bring: Bring) -> None:
        self._migrator_of, self._bring = migrator_of, bring
        self._one = asyncio.Lock()

    async def database(self, tenant: Tenant, plan: str) -> TenantReport:
        """Make a tenant's database: of a template where one can serve, else by its revisions.

        Raises RefusedError where there is one already, and MigrationError.
        """
        began = time.monotonic()
        target = tenant.target
        backend = backend_for(Access(target), target.maintenance_database)
        if _RESERVED.fullmatch(backend.access.url.database or ""):
            raise ConfigurationError(f"{tenant.name!r} cannot be a tenant's: the name is reserved")
        templates = backend.templates() if _is_plain(target) and plan else None
        try:
            async with backend.access.sharing():
                if templates is None:
                    if not await backend.create():
                        raise RefusedError(
                            f"there is a database of {tenant.name!r} already; it was not touched"
                        )
                    return await self._bring(tenant.name)
                if not await templates.copy(plan):
                    async with self._one:
                        if not await templates.made(plan):
                            async with templates.making(plan) as url:
                                await self._migrated(tenant, url)
                    if not await templates.copy(plan):
                        raise RefusedError("the template was removed; nothing was made of it")
        except Exception as error:
            hide_secrets(error, passwords_of(target))
            raise
        seconds = time.monotonic() - began
        return TenantReport(
            tenant.name, "migrated", seconds=seconds, notes=("copied of a template at head",)
        )

    async def _migrated(self, tenant: Tenant, url: URL) -> None:
        """Bring a template to head. Raises MigrationError where it is not there afterwards."""
        target = tenant.target._replace(database=url, recovery=(), create=True)
        with quietly():
            migrator = self._migrator_of(tenant._replace(target=target)).without_recovery()
            report = await migrator.run(mode="migrate")
        if report.outcome not in ("migrated", "current"):
            raise MigrationError(f"the template is not at head: {report}", report)
        await migrator.clear()  # a record of the template's is no tenant's

    async def schema(self, tenant: Tenant, schema: str) -> TenantReport:
        """Make a tenant's schema, and run its revisions. Raises RefusedError where it is there.

        One that failed, or was begun by a process that was killed, is gone on with.
        """
        if _RESERVED.fullmatch(schema):
            raise ConfigurationError(f"{tenant.name!r} cannot be a tenant's: the name is reserved")
        await make(tenant.target, schema)
        report = await self._bring(tenant.name)
        if report.at_head:
            await unmark(tenant.target, schema)
        return report


def _is_plain(target: Target) -> bool:
    """Whether what the revisions make cannot differ from tenant to tenant by the target's options.

    An engine or another role may connect otherwise than a URL of ours would.
    """
    plain = isinstance(target.database, URL) and target.migrate_with is None
    return plain and not (target.x or target.attributes)

"""Renders a plan through env.py's offline mode, several times, and compares."""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from sqlalchemy import URL

from automigrator.backends.contract.values import VersionTable
from automigrator.errors import AutomigratorError
from automigrator.fleet.replay.plan import Plan, UnsafeError, plan_of
from automigrator.migrations.captured_sql import captured
from automigrator.migrations.execution import Configured, Migration
from automigrator.migrations.offline_sql import Heads
from automigrator.support.redaction import first_line
from automigrator.target import Target


def named_in(target: Target, schema: str | None) -> str | None:
    """The tenant's name: the schema of the version table, where the target's options name it."""
    if schema is None:
        return None
    texts = [*target.x, *(each for each in target.attributes.values() if isinstance(each, str))]
    word = _word(schema)
    if target.version_table_schema == schema or any(map(word.search, texts)):
        return schema
    return None


def renamed(target: Target, tenant: str, name: str) -> Target:
    """The target with another tenant's name in its options."""

    def instead(value: Any) -> Any:
        return _word(tenant).sub(name, value) if isinstance(value, str) else value

    attributes: Mapping[str, Any] = {k: instead(v) for k, v in target.attributes.items()}
    schema = name if target.version_table_schema == tenant else target.version_table_schema
    return target._replace(
        x=[instead(each) for each in target.x], attributes=attributes, version_table_schema=schema
    )


def _word(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")


async def rendered(
    migration: Migration, context: Configured, heads: Heads | None, tenant: str | None
) -> Plan:
    """Render what is pending from `heads`, as `context` says; `tenant`: as in `named_in`.

    A history without names of tenants is rendered twice, for two databases. One with them is
    rendered for two names that nobody has, one of them for two databases, and for this tenant.
    Raises UnsafeError where two differ, or where offline mode cannot render.
    """
    elsewhere = migration.backend.access.url.set(database=f"am_{secrets.token_hex(7)}")

    async def once(name: str | None, url: URL | None = None) -> Plan:
        asked, at, whole = migration, context.table, context.one_transaction
        if tenant is not None and name is not None and name != tenant:
            asked = migration._replace(target=renamed(migration.target, tenant, name))
            at = VersionTable(at.name, name if at.schema == tenant else at.schema)
        try:
            found = await captured(asked, at, heads, one_transaction=whole, url=url)
            return plan_of(found, heads, name)
        except UnsafeError:
            raise
        except Exception as error:
            told = str(error) if isinstance(error, AutomigratorError) else first_line(error)
            raise UnsafeError(f"env.py's offline mode cannot render the SQL: {told}") from error

    if tenant is None:
        plan = await once(None)
        _ensure_same(plan, await once(None, elsewhere), "two renderings differ")
        return plan
    one, other = (f"am_{secrets.token_hex(size)}" for size in (5, 9))
    plan = await once(one)
    _ensure_same(plan, await once(one, elsewhere), "two renderings differ")
    if not any(one in each.sql for part in plan.parts for each in part.statements):
        raise UnsafeError("env.py's offline mode does not name the tenant's schema")
    _ensure_same(plan.of(other), await _plain(once, other), "two tenants' SQL differs")
    _ensure_same(plan.of(tenant), await _plain(once, tenant), "the tenant's SQL is not as others'")
    return plan


async def _plain(once: Callable[[str], Awaitable[Plan]], name: str) -> Plan:
    return (await once(name))._replace(placeholder=None)


def _ensure_same(one: Plan, other: Plan, otherwise: str) -> None:
    if one == other:
        return
    pairs = zip(_texts(one), _texts(other), strict=False)
    where = next((a.revision for a, b in pairs if a != b), None)
    raise UnsafeError(f"{otherwise}{f', first in revision {where}' if where else ''}")


def _texts(plan: Plan) -> list[Any]:
    return [each for part in plan.parts for each in part.statements]

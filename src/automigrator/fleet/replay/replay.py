"""The replay of a fleet: which histories are proved, and what a tenant's run does with that."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

from automigrator.errors import LockLostError
from automigrator.fleet.replay.course import Course, composed, followed
from automigrator.fleet.replay.plan import PLAIN, UnsafeError
from automigrator.fleet.replay.player import Told
from automigrator.fleet.replay.proof import UnprovedError, prove
from automigrator.fleet.replay.renderer import named_in, renamed
from automigrator.fleet.replay.scan import Unsafe, unsafe_in_env, unsafe_revisions
from automigrator.migrations.execution import Configured, Execution
from automigrator.migrations.history import History
from automigrator.runner.inspection import Finding
from automigrator.runner.replays import Play
from automigrator.runner.state import RunState
from automigrator.support.concurrency import in_thread
from automigrator.support.loggers import logger_of
from automigrator.support.redaction import first_line
from automigrator.target import Target

logger = logger_of(__name__)

TRIES = 3
"""Tenants that may fail to prove anything of a plan before it is given up."""


class Key(NamedTuple):
    """What a proof is for."""

    digest: str
    heads: tuple[str, ...] | None
    pending: tuple[str, ...]
    server: tuple[Any, ...]
    """Its driver, host and port: another server may be of another version."""
    version_table: str
    schema: str | None
    """That of the version table; None where it is the tenant's name, too."""
    options: tuple[Any, ...]
    """What else env.py may go by: those of the target, without the tenant's name."""


@dataclass(slots=True, eq=False)
class Proof:
    """What is known of one key."""

    course: Course | None = None
    proved: bool = False
    refusal: str = ""
    """Why nothing of it is replayed; empty as long as something may be."""
    tries: int = 0
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)


class Replay:
    """Applies pending revisions without env.py, where that is proved to give the same.

    One object serves all tenants of a rollout, each in a Migrator of its own whose `replay` it is:
    the first tenant at some heads proves, on copies of itself, what the others at those heads are
    given. Whatever cannot be proved is run by Alembic.
    """

    def __init__(self) -> None:
        self._proofs: defaultdict[Key, Proof] = defaultdict(Proof)

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why something was not replayed, one sentence each."""
        return tuple(dict.fromkeys(each.refusal for each in self._proofs.values() if each.refusal))

    async def completed(self, state: RunState, finding: Finding) -> Finding | None:
        """See `Replays`."""
        found = await self._key(state, finding)
        proof = self._proofs.get(found[0]) if found is not None else None
        if proof is None or proof.course is None or not proof.proved or proof.course.needs_env:
            return None
        one = proof.course.one_transaction
        contexts = tuple(replace(each, one_transaction=one) for each in finding.contexts)
        return finding._replace(contexts=contexts)

    async def prepared(self, state: RunState, finding: Finding) -> Play | None:
        """See `Replays`."""
        found = await self._key(state, finding)
        if found is None:
            return None
        key, tenant = found
        if tenant is not None and not _is_plain(state, tenant):
            state.run.note(f"run by Alembic, not replayed: SQL has to quote {tenant!r}")
            return None
        proof = self._proofs[key]
        async with proof.busy:  # the others wait for the one that proves
            if not proof.refusal and not proof.proved:
                await self._prove(state, finding, proof, key.heads, tenant)
        reason = proof.refusal
        if proof.course is not None and proof.proved:
            return partial(_play, state, proof.course.of(tenant), finding)
        if reason:
            state.run.note(f"run by Alembic, not replayed: {reason}")
        return None

    async def _key(self, state: RunState, finding: Finding) -> tuple[Key, str | None] | None:
        """The key of a tenant's pending revisions, and its name; None: nothing can be replayed."""
        session, backend = state.session, state.backend
        if len(finding.contexts) != 1 or not finding.pending or session.place.in_place:
            return None
        if finding.contexts[0].open_before:
            state.run.note("run by Alembic, not replayed: env.py begins a transaction of its own")
            return None
        if finding.unversioned or state.target.bootstrap is not None:
            return None
        (context,) = finding.contexts
        history = await session.history()
        # it reads every pending file; that was done where they are known by now
        digest = state.plan or await in_thread(partial(history.digest, finding.pending))
        tenant = named_in(state.target, context.table.schema)
        heads = finding.sight.heads.get(context.table)
        url, name = backend.access.url, context.table.name
        server = (url.drivername, url.host, url.port, url.query.get("host"))
        schema, target = context.table.schema, state.target
        if tenant is not None:
            schema, target = None, renamed(target, tenant, _ANYBODY)
        key = Key(digest, heads, finding.pending, server, name, schema, _options(target))
        return key, tenant

    async def _prove(
        self,
        state: RunState,
        finding: Finding,
        proof: Proof,
        heads: tuple[str, ...] | None,
        tenant: str | None,
    ) -> None:
        migration, (context,) = await state.migration(), finding.contexts
        name = state.run.name
        try:
            with state.at("proving that the pending revisions may be replayed", "env"):
                if proof.course is None:
                    unsafe = await in_thread(partial(_unsafe, migration.history, context))
                    course = await composed(migration, context, heads, tenant, unsafe)
                    proof.course = course
                await prove(state, proof.course, tenant)
        except UnsafeError as unsafe:
            proof.refusal = str(unsafe)
            logger.info("%s: not replayed: %s", name, unsafe)
        except LockLostError:
            raise
        except Exception as error:  # noqa: BLE001 - nothing was changed, and Alembic goes on
            why = str(error) if isinstance(error, UnprovedError) else first_line(error)
            proof.tries += 1
            state.run.note(f"run by Alembic, not replayed: {why}")
            if proof.tries >= TRIES:
                proof.refusal = f"no tenant could prove it: {why}"
        else:
            proof.proved = True
            logger.info("%s: proved that %d revisions may be replayed", name, len(finding.pending))


_ANYBODY = "?"
"""Stands for a tenant's name."""


def _options(target: Target) -> tuple[Any, ...]:
    """All that the SQL of two tenants may differ by, as it is told to their env.py."""
    simple = str | int | float | bool | None
    attributes = {k: v if isinstance(v, simple) else id(v) for k, v in target.attributes.items()}
    config = target.config if isinstance(target.config, str | os.PathLike) else id(target.config)
    named = target.version_table, target.version_table_schema, target.section, target.revision
    return (*named, str(config), tuple(target.x), tuple(sorted(attributes.items(), key=repr)))


def _is_plain(state: RunState, name: str) -> bool:
    """Whether a name stands in SQL without quotes."""
    preparer = state.session.place.engine.dialect.identifier_preparer
    return PLAIN.fullmatch(name) is not None and preparer.quote(name) == name


def _unsafe(history: History, context: Configured) -> Collection[str]:
    """The revisions that Alembic has to run. Raises UnsafeError where that is all of them."""
    found = unsafe_in_env(history)
    by_revision = unsafe_revisions(history, context.pending)
    if not found and (context.one_transaction or len(by_revision) == len(context.pending)):
        found = [each for several in by_revision.values() for each in several]
    if found:
        more = "; env.py asks for one transaction for all" if context.one_transaction else ""
        raise UnsafeError(_reasons(found) + (more if by_revision else ""))
    return by_revision


def _reasons(found: Sequence[Unsafe]) -> str:
    more = f"; and {len(found) - _MOST} more" if len(found) > _MOST else ""
    return "; ".join(map(str, found[:_MOST])) + more


_MOST = 3
"""Findings that a reason names."""


async def _play(state: RunState, course: Course, finding: Finding, execution: Execution) -> None:
    told = Told(state.started, state.done, state.server_says)
    await followed(await state.migration(), course, execution, finding.way, told)

"""The events there are: what each carries, how it reads in the log, and how loud it is.

Declare a new event here, and describe it in the table of `docs/events.md`: the tests fail for an
event that is not in both, or that carries other keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from logging import CRITICAL, DEBUG, ERROR, INFO, WARNING
from typing import Any, NamedTuple

from automigrator.printable import escaped, escaped_lines

_LOUD = {"recovered": WARNING, "degraded": WARNING, "failed": ERROR}


class Declared(NamedTuple):
    """One kind of event.

    `keys`: what its `data` holds, in JSON types. `sentence`: the log record's, filled from the
    data; empty where the caller gives the whole text. `level`: of the log record; None goes by
    the data's outcome. `ends`: the events that began what this one ends.
    """

    name: str
    keys: tuple[str, ...]
    sentence: str
    level: int | None
    ends: tuple[str, ...]

    def level_for(self, data: Mapping[str, Any]) -> int:
        """Return the log level of one such event."""
        return _LOUD.get(data.get("outcome", ""), INFO) if self.level is None else self.level

    def said(self, target: str | None, data: Mapping[str, Any], told: object) -> str:
        """Return the log record's text; data that is missing for it must not stop a run."""
        try:
            text = escaped(self.sentence.format(**data)) if self.sentence else escaped_lines(told)
        except (LookupError, ValueError, TypeError):
            text = self.name
        return f"{escaped(target)}: {text}" if target else text


def event(
    level: int | None, name: str, keys: str, sentence: str = "", *, ends: str = ""
) -> Declared:
    """Declare an event; `keys` and `ends` are names with a space between."""
    return Declared(name, tuple(keys.split()), sentence, level, tuple(ends.split()))


debug, info, warning, error = (partial(event, level) for level in (DEBUG, INFO, WARNING, ERROR))


def step(began: Declared, *ways: Declared) -> tuple[Declared, ...]:
    """Declare what begins, and the ways in which it ends."""
    return (began, *(way._replace(ends=(began.name,)) for way in ways))


_DECLARED = (
    warning("skipped", "reason", "migrations are {reason}"),
    *step(
        info("run-started", "mode targets"),
        event(None, "run-finished", "outcome error targets seconds"),
    ),
    *step(
        debug("target-started", "database url", "started, {database} at {url}"),
        debug(
            "target-finished",
            "outcome before after applied attempts failures drive leader waited_s elapsed_s "
            "notes failed_starts rehearsed_s deferred rehearsal state snapshot",
            "{outcome} in {elapsed_s:.2f} s",
        ),
    ),
    *step(
        info("waiting", "on what seconds progress", "waiting for {what}, {seconds:.0f} s so far"),
        info("reached", "waited_s", "the database server answers after {waited_s:.1f} s"),
        info("locked", "waited_s", "migration lock held"),
        info(
            "waited", "on what seconds found result", "waited {seconds:.1f} s for {what}: {result}"
        ),
    ),
    *step(
        info("create-started", "", "creating the database"),
        info("created", "ours seconds result", "{result}"),
    ),
    *step(
        info("repair-started", "", "finishing or undoing what was begun"),
        warning("repaired", "what seconds", "{what}"),
        error(
            "repair-failed",
            "seconds error message",
            "the next start has to finish what was begun: {message}",
        ),
    ),
    *step(
        info("bootstrap-started", "", "bootstrapping a new database"),
        info("bootstrapped", "revision seconds", "new database bootstrapped, at {revision}"),
    ),
    info("stamped", "revision", "existing tables stamped as {revision}"),
    info(
        "followed",
        "leader outcome",
        "{leader} tried the same while this process waited; it was not repeated",
    ),
    debug("planned", "revisions"),
    *step(
        info("rehearsal-started", "pending", "rehearsing {pending} pending on a copy"),
        info("rehearsed", "pending seconds", "rehearsed on a copy in {seconds:.2f} s"),
        warning(
            "rehearsal-failed", "pending seconds error message", "the rehearsal failed: {message}"
        ),
    ),
    warning("deferred", "revisions reason", "{reason}"),
    *step(
        info(
            "attempt-started", "attempt pending", "attempt {attempt}, revisions pending: {pending}"
        ),
        debug("attempt-finished", "attempt outcome seconds", "attempt {attempt} {outcome}"),
    ),
    *step(
        info(
            "revision-started",
            "revision index total",
            "revision {index}/{total} {revision} started",
        ),
        info("revision-done", "revision seconds", "revision {revision} done in {seconds:.3f} s"),
    ),
    debug("progress", "phase done total", "{phase}, {done} of {total}"),
    info(
        "retrying",
        "seconds kind what",
        "trying again in {seconds:.1f} s: {what}",
        ends="repair-started bootstrap-started revision-started attempt-started",
    ),
    error(
        "failed",
        "kind message state revision statement applied debris advice attempt hints "
        "database blames in_rehearsal rollback error",
        ends="waiting create-started repair-started bootstrap-started revision-started "
        "attempt-started",
    ),
    event(CRITICAL, "crash-loop", "failed_starts since tries_again_at outcome failure"),
    info("decided", "plugin decision", "{plugin} decided to {decision}"),
    info("passed", "done", "{done}"),
    *step(
        debug("hook-started", "hook plugin", "{hook} of {plugin} called"),
        debug(
            "hook-finished",
            "hook plugin seconds",
            "{hook} of {plugin} returned after {seconds:.3f} s",
        ),
        error("hook-failed", "hook plugin seconds error message", "{message}"),
    ),
    warning(
        "hook-left",
        "hook plugin grace",
        "{hook} of {plugin} was cancelled and did not end within {grace:g} s: it is left behind",
    ),
    *step(
        info("snapshot-started", "", "taking a snapshot"),
        info("snapshot-taken", "place seconds", "snapshot {place} taken in {seconds:.2f} s"),
        warning("snapshot-failed", "seconds error message", "no snapshot: {message}"),
    ),
    *step(
        warning("restore-started", "place", "putting {place} back"),
        warning("restored", "place kind seconds", "put back from {place} in {seconds:.2f} s"),
        error(
            "restore-failed", "place seconds error message", "{place} was not put back: {message}"
        ),
    ),
    *step(
        warning("recreate-started", "", "building a fresh database on the side"),
        warning("recreated", "aside seconds", "rebuilt from nothing; the old data: {aside}"),
        warning("recreate-failed", "seconds error message", "not rebuilt: {message}"),
    ),
    warning("cancelled", "what heads", "cancelled; {what}"),
    warning("newer-database", "text heads", "{text}"),
    warning("edited-revisions", "text", "{text}"),
    warning("no-revisions", "text", "{text}"),
    info("note", "text", "{text}"),
    *step(
        info("rollback-started", "revision database url", "rolling back to {revision}"),
        event(
            None,
            "rollback-finished",
            "revision outcome reverted seconds",
            "rollback to {revision}: {outcome} in {seconds:.2f} s",
        ),
    ),
)

CATALOGUE: Mapping[str, Declared] = {each.name: each for each in _DECLARED}
"""Every event by its name, in the order in which a run may tell them."""

"""The events there are: what each carries, how it reads in the log, and how loud it is.

Declare a new event here, and describe it in the table of `docs/events.md`: the tests fail for an
event that is not in both, or that carries other keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from logging import CRITICAL, DEBUG, ERROR, INFO, WARNING
from typing import Any, NamedTuple

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
            text = self.sentence.format(**data) if self.sentence else str(told)
        except (LookupError, ValueError, TypeError):
            text = self.name
        return f"{target}: {text}" if target else text


def event(
    name: str, keys: str, sentence: str = "", *, level: int | None = INFO, ends: str = ""
) -> Declared:
    """Declare an event; `keys` and `ends` are names with a space between."""
    return Declared(name, tuple(keys.split()), sentence, level, tuple(ends.split()))


_DECLARED = (
    event("skipped", "reason", "migrations are {reason}", level=WARNING),
    event("run-started", "mode targets"),
    event("run-finished", "outcome error targets seconds", level=None, ends="run-started"),
    event("target-started", "database url", "started, {database} at {url}", level=DEBUG),
    event(
        "target-finished",
        "outcome before after applied attempts failures drive leader waited_s elapsed_s "
        "notes failed_starts rehearsed_s",
        "{outcome} in {elapsed_s:.2f} s",
        level=DEBUG,
        ends="target-started",
    ),
    event("waiting", "on what seconds", "waiting for {what}, {seconds:.0f} s so far"),
    event(
        "reached", "waited_s", "the database server answers after {waited_s:.1f} s", ends="waiting"
    ),
    event("locked", "waited_s", "migration lock held", ends="waiting"),
    event("create-started", "", "creating the database"),
    event("created", "ours seconds", "database created in {seconds:.2f} s", ends="create-started"),
    event("repair-started", "", "finishing or undoing what was begun"),
    event("repaired", "what seconds", "{what}", level=WARNING, ends="repair-started"),
    event(
        "repair-failed",
        "seconds error message",
        "the next start has to finish what was begun: {message}",
        level=ERROR,
        ends="repair-started",
    ),
    event("bootstrap-started", "", "bootstrapping a new database"),
    event(
        "bootstrapped",
        "revision seconds",
        "new database bootstrapped, at {revision}",
        ends="bootstrap-started",
    ),
    event("stamped", "revision", "existing tables stamped as {revision}"),
    event(
        "followed",
        "leader outcome",
        "{leader} tried the same while this process waited; it was not repeated",
    ),
    event("rehearsal-started", "pending", "rehearsing {pending} pending on a copy"),
    event(
        "rehearsed",
        "pending seconds",
        "rehearsed on a copy in {seconds:.2f} s",
        ends="rehearsal-started",
    ),
    event(
        "rehearsal-failed",
        "pending seconds error message",
        "the rehearsal failed: {message}",
        level=WARNING,
        ends="rehearsal-started",
    ),
    event("attempt-started", "attempt pending", "attempt {attempt}, {pending} pending"),
    event(
        "attempt-finished",
        "attempt outcome seconds",
        "attempt {attempt} {outcome}",
        level=DEBUG,
        ends="attempt-started",
    ),
    event(
        "revision-started", "revision index total", "revision {index}/{total} {revision} started"
    ),
    event(
        "revision-done",
        "revision seconds",
        "revision {revision} done in {seconds:.3f} s",
        ends="revision-started",
    ),
    event(
        "drive-changed",
        "revision was now message",
        "{revision} cannot run by {was}: {message}; going on by {now}",
        level=WARNING,
    ),
    event(
        "retrying",
        "seconds kind what",
        "trying again in {seconds:.1f} s: {what}",
        ends="repair-started bootstrap-started revision-started attempt-started",
    ),
    event(
        "failed",
        "kind message state revision statement applied debris advice attempt hints "
        "database in_rehearsal error",
        level=ERROR,
        ends="waiting create-started repair-started bootstrap-started revision-started "
        "attempt-started",
    ),
    event("crash-loop", "failed_starts since tries_again_at outcome failure", level=CRITICAL),
    event("decided", "plugin decision", "{plugin} decided to {decision}"),
    event("passed", "", "nobody decided"),
    event("hook-started", "hook plugin", "{hook} of {plugin} called", level=DEBUG),
    event(
        "hook-finished",
        "hook plugin seconds",
        "{hook} of {plugin} returned after {seconds:.3f} s",
        level=DEBUG,
        ends="hook-started",
    ),
    event(
        "hook-failed",
        "hook plugin seconds error message",
        "{message}",
        level=ERROR,
        ends="hook-started",
    ),
    event(
        "hook-left",
        "hook plugin grace",
        "{hook} of {plugin} was cancelled and did not end within {grace:g} s: it is left behind",
        level=WARNING,
    ),
    event("snapshot-started", "", "taking a snapshot"),
    event(
        "snapshot-taken",
        "place seconds",
        "snapshot {place} taken in {seconds:.2f} s",
        ends="snapshot-started",
    ),
    event(
        "snapshot-failed",
        "seconds error message",
        "no snapshot: {message}",
        level=WARNING,
        ends="snapshot-started",
    ),
    event("restore-started", "place", "putting {place} back", level=WARNING),
    event(
        "restored",
        "place kind seconds",
        "put back from {place} in {seconds:.2f} s",
        level=WARNING,
        ends="restore-started",
    ),
    event(
        "restore-failed",
        "place seconds error message",
        "{place} was not put back: {message}",
        level=ERROR,
        ends="restore-started",
    ),
    event("recreate-started", "", "building a fresh database on the side", level=WARNING),
    event(
        "recreated",
        "aside seconds",
        "rebuilt from nothing; the old data: {aside}",
        level=WARNING,
        ends="recreate-started",
    ),
    event(
        "recreate-failed",
        "seconds error message",
        "not rebuilt: {message}",
        level=WARNING,
        ends="recreate-started",
    ),
    event("cancelled", "what heads", "cancelled; {what}", level=WARNING),
    event("newer-database", "text heads", "{text}", level=WARNING),
    event("note", "text", "{text}"),
    event("rollback-started", "revision database url", "rolling back to {revision}"),
    event(
        "rollback-finished",
        "revision outcome seconds",
        "rollback to {revision}: {outcome} in {seconds:.2f} s",
        level=None,
        ends="rollback-started",
    ),
)

CATALOGUE: Mapping[str, Declared] = {each.name: each for each in _DECLARED}
"""Every event by its name, in the order in which a run may tell them."""

"""The events there are: what each says, what it carries, and how loud it is in the log.

A new event is declared here, and nowhere else: `docs/events.md` is made from this list, and the
tests fail for an event that is not in it, or that carries other keys.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from automigrator.events.declaration import Declared, event

_SECONDS = "how long it took"

_ERROR = {"error": "the name of the exception's type", "message": "what it says, no data in it"}

_REVISION = "the revision's id"

_CUT = ("repair-started", "bootstrap-started", "revision-started", "attempt-started")

_DECLARED = (
    event(
        "skipped",
        "the gate is closed: nothing is looked at",
        "migrations are {reason}",
        level=logging.WARNING,
        reason="why, and how to open it",
    ),
    event(
        "run-started",
        "a run begins, in every mode but `skip`",
        mode="`migrate`, `check` or `wait`",
        targets="a list of the targets' names",
    ),
    event(
        "run-finished",
        "the run is over, however it ended; the last event of a run",
        level=None,
        ends="run-started",
        outcome="the report's, `failed` where there is none, or `cancelled`",
        error="the name of the type of what `run()` raises, or null",
        targets="an object: the outcome of each target that has one",
        seconds=_SECONDS,
    ),
    event(
        "target-started",
        "a target's turn begins",
        "started, {database} at {url}",
        level=logging.DEBUG,
        database="the kind of database: `sqlite`, `postgresql`",
        url="the database's URL without secrets",
    ),
    event(
        "target-finished",
        "a target's turn is over, and every step of it that has not ended otherwise",
        "{outcome} in {elapsed_s:.2f} s",
        level=logging.DEBUG,
        ends="target-started",
        outcome="its report's, or `cancelled`",
        before="a list: the heads it had",
        after="a list: the heads it has",
        applied="a list of objects: `revision` and `seconds`",
        attempts="how many there were",
        failures="a list of objects with the keys of `failed`",
        drive="how env.py was driven, or null",
        leader="whether this process changed the database",
        waited_s="seconds waited for the lock",
        elapsed_s="seconds in all",
        notes="a list of sentences",
        failed_starts="how many in a row failed at the same revisions, this one included",
        rehearsed_s="seconds that rehearsals took, or null",
    ),
    event(
        "waiting",
        "something is waited for; told again and again",
        "waiting for {what}, {seconds:.0f} s so far",
        on="`server`, `lock`, or `leader` in mode `wait`",
        what="what is waited for, and who has it",
        seconds="how long so far",
    ),
    event(
        "reached",
        "the server that was waited for answers",
        "the database server answers after {waited_s:.1f} s",
        ends="waiting",
        waited_s="seconds waited",
    ),
    event(
        "locked",
        "the migration lock is held",
        "migration lock held",
        ends="waiting",
        waited_s="seconds waited",
    ),
    event("create-started", "the database is absent and is created", "creating the database"),
    event(
        "created",
        "the database is there",
        "database created in {seconds:.2f} s",
        ends="create-started",
        ours="false when somebody else was quicker",
        seconds=_SECONDS,
    ),
    event(
        "repair-started",
        "what a killed process began, or a cancelled run, is finished or undone",
        "finishing or undoing what was begun",
    ),
    event(
        "repaired",
        "it is finished or undone",
        "{what}",
        level=logging.WARNING,
        ends="repair-started",
        what="what was done",
        seconds=_SECONDS,
    ),
    event(
        "repair-failed",
        "it is not; the next start tries again",
        "the next start has to finish what was begun: {message}",
        level=logging.ERROR,
        ends="repair-started",
        seconds=_SECONDS,
        **_ERROR,
    ),
    event(
        "bootstrap-started",
        "the target's `bootstrap` is called for an empty database",
        "bootstrapping a new database",
    ),
    event(
        "bootstrapped",
        "it has made the tables",
        "new database bootstrapped, at {revision}",
        ends="bootstrap-started",
        revision="what was stamped, or null",
        seconds=_SECONDS,
    ),
    event(
        "stamped",
        "existing tables were given the target's `baseline`",
        "existing tables stamped as {revision}",
        revision=_REVISION,
    ),
    event(
        "followed",
        "the leader that was waited for failed at the very same; it is not repeated",
        "{leader} tried the same while this process waited; it was not repeated",
        leader="who that was",
        outcome="how it ended: `failed` or `degraded`",
    ),
    event(
        "rehearsal-started",
        "a copy is made; the revisions up to the end of this step run on it",
        "rehearsing {pending} pending on a copy",
        pending="how many revisions",
    ),
    event(
        "rehearsed",
        "it worked, and the copy is gone",
        "rehearsed on a copy in {seconds:.2f} s",
        ends="rehearsal-started",
        pending="how many revisions",
        seconds=_SECONDS,
    ),
    event(
        "rehearsal-failed",
        "it did not; the database was not touched",
        "the rehearsal failed: {message}",
        level=logging.WARNING,
        ends="rehearsal-started",
        pending="how many revisions",
        seconds=_SECONDS,
        **_ERROR,
    ),
    event(
        "attempt-started",
        "the pending revisions are about to run",
        "attempt {attempt}, {pending} pending",
        attempt="counts from 1",
        pending="how many revisions",
    ),
    event(
        "attempt-finished",
        "the attempt is over",
        "attempt {attempt} {outcome}",
        level=logging.DEBUG,
        ends="attempt-started",
        attempt="counts from 1",
        outcome="`applied`, `failed` or `cancelled`",
        seconds=_SECONDS,
    ),
    event(
        "revision-started",
        "a revision begins",
        "revision {index}/{total} {revision} started",
        revision=_REVISION,
        index="counts from 1",
        total="how many there are in this attempt",
    ),
    event(
        "revision-done",
        "it ran; in a transaction of its own, it is committed too",
        "revision {revision} done in {seconds:.3f} s",
        ends="revision-started",
        revision=_REVISION,
        seconds=_SECONDS,
    ),
    event(
        "drive-changed",
        "the async driver refused a revision; the attempt goes on another way",
        "{revision} cannot run by {was}: {message}; going on by {now}",
        level=logging.WARNING,
        revision=_REVISION,
        was="how env.py was driven",
        now="how it is driven from here on",
        message="what the driver says",
    ),
    event(
        "retrying",
        "what an attempt met passes by itself; the same attempt is made again, and nobody is asked",
        "trying again in {seconds:.1f} s: {what}",
        ends=_CUT,
        seconds="the pause until then",
        kind="see `Failure.kind`",
        what="what it met, and in which revision",
    ),
    event(
        "failed",
        "an attempt failed, or what comes before one",
        level=logging.ERROR,
        ends=("waiting", "create-started", *_CUT),
        kind="see `Failure.kind`",
        message="what happened",
        state="`clean`, `partial-at-boundary` or `partial-within-revision`",
        revision="the revision's id, or null",
        statement="the SQL without its parameters, or null",
        applied="a list of the revisions that stay applied",
        debris="a list of what half a revision left",
        advice="what a person should do",
        attempt="counts from 1",
        hints="a list of what lay about already, and may have to do with it",
        database="its URL without password",
        in_rehearsal="whether it happened on a copy, and the database was not touched",
        error="the name of the exception's type, or null",
    ),
    event(
        "crash-loop",
        "too many starts have failed at the same revisions: this one touches nothing",
        level=logging.CRITICAL,
        failed_starts="how many",
        since="when the first of them was, in UTC",
        tries_again_at="from when on a start tries once more, in UTC",
        outcome="`degraded` or `failed`",
        failure="an object with the keys of `failed`",
    ),
    event(
        "decided",
        "a plugin decided about a failure",
        "{plugin} decided to {decision}",
        plugin="whose decision it is",
        decision="`retry`, `continue` or `abort`",
    ),
    event("passed", "no plugin decided about a failure: the run aborts", "nobody decided"),
    event(
        "hook-started",
        "a hook is called; not told for `on_event`",
        "{hook} of {plugin} called",
        level=logging.DEBUG,
        hook="`before_migrate`, `on_failure` or `after_migrate`",
        plugin="the plugin's name",
    ),
    event(
        "hook-finished",
        "it returned",
        "{hook} of {plugin} returned after {seconds:.3f} s",
        level=logging.DEBUG,
        ends="hook-started",
        hook="as it was told",
        plugin="the plugin's name",
        seconds=_SECONDS,
    ),
    event(
        "hook-failed",
        "it raised, ran out of time or answered nonsense",
        "{message}",
        level=logging.ERROR,
        ends="hook-started",
        hook="as it was told",
        plugin="the plugin's name",
        seconds=_SECONDS,
        **_ERROR,
    ),
    event(
        "hook-left",
        "it was cancelled, and did not end in time: the run goes on without it",
        "{hook} of {plugin} was cancelled and did not end within {grace:g} s: it is left behind",
        level=logging.WARNING,
        hook="as it was told",
        plugin="the plugin's name",
        grace="seconds that it was given",
    ),
    event("snapshot-started", "a snapshot is taken", "taking a snapshot"),
    event(
        "snapshot-taken",
        "it stands, and is verified",
        "snapshot {place} taken in {seconds:.2f} s",
        ends="snapshot-started",
        place="the file or the database that it is",
        seconds=_SECONDS,
    ),
    event(
        "snapshot-failed",
        "there is none",
        "no snapshot: {message}",
        level=logging.WARNING,
        ends="snapshot-started",
        seconds=_SECONDS,
        **_ERROR,
    ),
    event(
        "restore-started",
        "the run's snapshot is put back",
        "putting {place} back",
        level=logging.WARNING,
        place="the snapshot",
    ),
    event(
        "restored",
        "it is, and was read anew",
        "put back from {place} in {seconds:.2f} s",
        level=logging.WARNING,
        ends="restore-started",
        place="the snapshot",
        kind="the kind of the failure that it answers",
        seconds=_SECONDS,
    ),
    event(
        "restore-failed",
        "it is not, or not for sure; the next start restores it again",
        "{place} was not put back: {message}",
        level=logging.ERROR,
        ends="restore-started",
        place="the snapshot",
        seconds=_SECONDS,
        **_ERROR,
    ),
    event(
        "recreate-started",
        "a fresh database is built on the side",
        "building a fresh database on the side",
        level=logging.WARNING,
    ),
    event(
        "recreated",
        "it has taken the old one's place",
        "rebuilt from nothing; the old data: {aside}",
        level=logging.WARNING,
        ends="recreate-started",
        aside="where the old data is, or `deleted`",
        seconds=_SECONDS,
    ),
    event(
        "recreate-failed",
        "it has not",
        "not rebuilt: {message}",
        level=logging.WARNING,
        ends="recreate-started",
        seconds=_SECONDS,
        **_ERROR,
    ),
    event(
        "cancelled",
        "a run that had the lock was cancelled, and has cleaned up",
        "cancelled; {what}",
        level=logging.WARNING,
        what="how far it came",
        heads="a list: the heads the database has, as far as they are known",
    ),
    event(
        "newer-database",
        "the database is newer than this code, and the application starts on it",
        "{text}",
        level=logging.WARNING,
        text="both sides, and why it may",
        heads="a list of the database's",
    ),
    event("note", "a plugin or the core has something to say", "{text}", text="a sentence"),
    event(
        "rollback-started",
        "`rollback()` begins; a run of its own",
        "rolling back to {revision}",
        revision="where to",
        database="the kind of database",
        url="the database's URL without secrets",
    ),
    event(
        "rollback-finished",
        "it is over, however it ended",
        "rollback to {revision}: {outcome} in {seconds:.2f} s",
        level=None,
        ends="rollback-started",
        revision="where to",
        outcome="its report's, or `cancelled`",
        seconds=_SECONDS,
    ),
)

CATALOGUE: Mapping[str, Declared] = {each.name: each for each in _DECLARED}

"""Every event by its name, in the order in which a run may tell them."""


def misfit(name: str, data: Mapping[str, Any]) -> str | None:
    """What is wrong with an event beside its declaration, and how to mend it; None: nothing."""
    declared = CATALOGUE.get(name)
    if declared is None:
        return f"the event {name!r} is not declared: add it to automigrator/events/catalogue.py"
    told, said = set(data), set(declared.keys)
    if told == said:
        return None
    more, less = ", ".join(sorted(told - said)), ", ".join(sorted(said - told))
    return (
        f"the event {name!r} carries other keys than automigrator/events/catalogue.py declares: "
        f"undeclared: {more or 'none'}; missing: {less or 'none'}"
    )

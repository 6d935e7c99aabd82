"""What is wrong after a run: with what it said, with the database, or with what it left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from faults.places import Kind
from fuzz.configurations import Configuration
from fuzz.disturbances import Disturbance
from fuzz.histories import COLUMNS, History, effects
from fuzz.life import Dump, sum_of

from automigrator.report import TargetReport


@dataclass(frozen=True)
class Scene:
    """The database before a run, or after it; `opened` is whether a journal is open."""

    dump: Dump
    beside: Sequence[tuple[Kind, str]]
    opened: bool


@dataclass(frozen=True)
class Told:
    """What one run said: a report, or nothing where it was cancelled."""

    configuration: Configuration
    disturbance: Disturbance
    report: TargetReport | None
    heard: frozenset[str]
    """The names of the events of all runs that went on at the time."""

    @property
    def clean(self) -> bool:
        """Whether it says that nothing of it stayed in the database."""
        report = self.report
        if report is None or report.outcome not in ("failed", "degraded"):
            return False
        return not report.failures or report.failures[-1].state == "clean"


@dataclass
class Rows:
    """The application's rows: what was acknowledged, and where it is known to be."""

    acknowledged: set[str]
    racing: set[str]
    """Those written while a run went on: a revision may not have seen them."""
    aside: set[str]
    """Those that only a set-aside copy has."""
    lost: set[str]
    """Those that a revision itself has deleted, and committed that."""


def misfits(history: History, dump: Dump, rows: Rows, debris: set[str]) -> Iterator[str]:
    """Where the database does not have what its heads say; `debris` may be there besides."""
    if not dump.heads <= history.ids:
        yield f"the heads {set(dump.heads)} are no revision's"
        return
    if history.rows & dump.heads != dump.heads and len(history.with_ancestors(dump.heads)) < len(
        dump.heads
    ):
        yield f"the heads {set(dump.heads)} are not"
    tables, columns, counted = effects(history, dump.heads)
    if lacking := tables - dump.user_tables:
        yield f"at {set(dump.heads)} there is no {lacking}"
    if more := dump.user_tables - tables - debris:
        yield f"at {set(dump.heads)} there is {more}"
    if "notes" not in tables:
        return
    found = set(dump.columns.get("notes", ())) - COLUMNS
    if found != columns:
        yield f"at {set(dump.heads)} notes has {found}, not {columns}"
    (counter,) = dump.tables["counter"]
    if counter["n"] != counted:
        yield f"{counted} revisions counted and the counter is at {counter['n']}"
    wrong = {
        row["token"]
        for row in dump.tables["notes"]
        if row["times"] != counted and row["token"] not in rows.racing
    }
    if wrong:
        yield f"{counted} revisions counted, and {wrong} was not counted so often"
    notes = {row["id"] for row in dump.tables["notes"]}
    if orphans := [r["token"] for r in dump.tables["pages"] if r["note_id"] not in notes]:
        yield f"{orphans} refer to nothing"


def untruths(
    history: History, before: Scene, after: Scene, told: Told, new: set[str]
) -> Iterator[str]:
    """Where a report says what is not so; `new` are the rows that came meanwhile."""
    report = told.report
    if report is None:
        return
    heads = tuple(sorted(after.dump.heads))
    if tuple(report.after) != heads:
        yield f"it says that the database is at {report.after}, and it is at {heads}"
    at_heads = after.dump.heads == history.rows
    if report.outcome in ("current", "migrated", "recovered") and not at_heads:
        yield f"{report.outcome}, and the database is at {heads}"
    if at_heads and report.outcome in ("failed", "degraded") and told.disturbance.fault.harmless:
        yield f"{report.outcome}, and the database is at the wanted {heads}"
    repaired = "repaired" in told.heard
    if not repaired and tuple(report.before) != tuple(sorted(before.dump.heads)):
        yield f"it says that the database was at {report.before}, not {set(before.dump.heads)}"
    yield from _applied(history, after, told)
    same = before.dump.without(new) == after.dump.without(new)
    if not repaired and not same:
        if report.outcome == "current":
            yield "current, and the database is not as it was"
        if told.clean:
            yield "the failure left it clean, and the database is not as it was"
        if report.attempts == 0 and report.outcome in ("failed", "degraded"):
            yield "nothing was tried, and the database is not as it was"
        last = [n for n in told.disturbance.names if n in ("attempt-started", "restored")]
        if last[-1:] == ["restored"] and "recreated" not in told.heard:
            yield "it was put back, and is not as it was"


def _applied(history: History, after: Scene, told: Told) -> Iterator[str]:
    report = told.report
    assert report is not None
    applied = [each.revision for each in report.applied]
    if not after.dump.heads <= history.ids:
        if applied:
            yield f"it says that {applied} were applied to a newer database"
        return
    there = history.with_ancestors(after.dump.heads)
    if "recreated" not in told.heard and set(report.before) <= history.ids:
        there -= history.with_ancestors(report.before)
    if set(applied) != there or len(set(applied)) != len(applied):
        yield f"it says that {applied} were applied, and it was {sorted(there)}"
    known: set[str] = set()
    for id in applied:
        needed = {*history[id].down, *history[id].depends_on} & there
        if not needed <= known:
            yield f"it says that {applied} were applied, in an order that cannot be"
        known.add(id)


def losses(
    before: Scene,
    after: Scene,
    told: Sequence[Told],
    rows: Rows,
    read: Callable[[str], Dump],
    *,
    losing: bool,
    new: set[str],
) -> Iterator[str]:
    """Rows that are nowhere, or not where they may be; those that have gone aside are noted.

    `losing` is whether a revision that deletes lines may have run, `new` what came meanwhile.
    """
    live = after.dump.tokens()
    missing = rows.acknowledged - set(live) - rows.aside - rows.lost
    yield from _forged(live, "the database")
    if not missing:
        return
    lines: set[str] = set()
    if losing:
        # what came after the copy, and was deleted before the restore, is in neither
        lines = {token for token in new if token[0] == "d" and int(token[1:]) % 2 == 0}
        if not all(_undid(each.disturbance.names) for each in told):
            diary = before.dump.tables.get("diary", ())
            lines |= {row["token"] for row in diary if row["id"] % 2 == 0}
    heard = {name for each in told for name in each.heard}
    for kind, name in after.beside:
        found = read(name).tokens()
        yield from _forged({t: s for t, s in found.items() if t in missing}, name)
        if kind == "aside" and (kind, name) not in before.beside:
            if missing & set(found) and not heard & {"recreated", "repaired", "restored"}:
                yield f"{name} has {missing & set(found)}, and nobody says why"
            rows.aside |= missing & set(found)
            missing -= set(found)
        elif kind == "stray" or (kind == "snapshot" and after.opened):
            missing -= set(found)  # the next start puts it back
    rows.lost |= missing & lines
    missing -= lines
    if missing:
        yield f"{sorted(missing)} are nowhere"


def _undid(names: Sequence[str]) -> bool:
    """Whether a run has put back what it had changed, if anything."""
    tried = "attempt-started" in names
    return not tried or "restored" in names or ("cancelled" in names and "snapshot-taken" in names)


def _forged(tokens: dict[str, str], where: str) -> Iterator[str]:
    if wrong := {token for token, found in tokens.items() if found != sum_of(token)}:
        yield f"{wrong} are not what was written, in {where}"

"""The part of a lock's hold that copies a target and puts the copy back; a backend may lack it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from automigrator.backends.contract.values import VersionTable
from automigrator.errors import RefusedError
from automigrator.frozen import Frozen
from automigrator.printable import escaped
from automigrator.retention import Limits, at_of
from automigrator.support.sizes import sized

Copying = Literal["auto", "template", "dump"]
"""How a copy is made, where a database knows more than one way."""


class SnapshotOptions(Frozen):
    """How a copy of a target is made.

    `folder`: where files go; default: the backend's choice. `disconnect_others`: end sessions
    that stand in the way; default False. `how`: `"auto"` (default), `"template"` or `"dump"`.
    `binaries`: the folder of the database's client programs; default: the PATH.
    """

    folder: Path | None = None
    disconnect_others: bool = False
    how: Copying = "auto"
    binaries: Path | None = None


DEFAULT = SnapshotOptions()


SnapshotKind = Literal["copy", "template", "dump", "replaced", "undone", "purged", "corrupt"]
"""The first three are snapshots: a SQLite copy, a template copy, a dump. A restore has kept what is
`replaced` or `undone`, a purge what is `purged` or `corrupt`."""


class Snapshot(Frozen):
    """A copy of a target's data that automigrator keeps.

    `place`: a file, or the name of a database. `heads`: the revisions that it is at. `stamp`: when
    it was made, as in its name. `size`: bytes; None where that would cost too much. `flaw`: why it
    is not whole; empty where it seems to be, which is looked at closely only when it is put back.
    """

    place: str
    heads: tuple[str, ...]
    stamp: str
    kind: SnapshotKind = "copy"
    size: int | None = None
    flaw: str = ""

    @property
    def at(self) -> datetime | None:
        """When it was made, in UTC; None where its name does not say."""
        return at_of(self.stamp.partition("-")[0])

    @property
    def whole(self) -> bool:
        """Whether it seems to be whole."""
        return not self.flaw

    def __str__(self) -> str:
        said = [f"{self.kind} {self.place}", "; at ", ", ".join(self.heads) or "base"]
        if self.flaw:
            said[1:] = [f"; not whole: {self.flaw}"]
        if self.size is not None:
            said.append(f"; {sized(self.size)}")
        if self.at is not None:
            said.append(f"; {self.at:%Y-%m-%d %H:%M:%S} UTC")
        return escaped("".join(said))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "place": self.place,
            "kind": self.kind,
            "heads": list(self.heads),
            "at": self.at.isoformat() if self.at is not None else None,
            "size": self.size,
            "whole": self.whole,
            "flaw": self.flaw,
        }


class PutBack(Frozen):
    """A snapshot that was put back: where it is now, and where the replaced data is kept.

    What a restore or purge had kept is a snapshot from then on. `replaced` is "" where there was
    nothing to replace.
    """

    place: str
    replaced: str


class Snapshots(ABC):
    """Copies of one target, made and put back under its lock.

    Each method raises RefusedError, before anything is changed, where it cannot be done safely.
    A `stamp` is 1 to 28 letters and digits.
    """

    @abstractmethod
    async def take(
        self,
        stamp: str,
        heads: tuple[str, ...],
        wanted: tuple[str, ...],
        tables: Sequence[VersionTable],
        options: SnapshotOptions = DEFAULT,
        *,
        atomic: bool = False,
        steps: Sequence[str] | None = None,
    ) -> Snapshot:
        """Copy the whole target, verify the copy, and open the journal.

        A process that is killed before `Hold.close_journal` is undone by the next holder's
        `recover`, unless that finds the database at `wanted`. `atomic` says that the migration
        is one transaction: a change found at the old heads is then the application's. `steps` are
        the revisions that are to run, None where nobody knows them: a database at other heads was
        changed by somebody else, and is not put back.
        """

    @property
    def untouched(self) -> bool:
        """Whether the journal of this run is open, and tells that nothing was committed yet."""
        return False

    async def began(self, transaction: str) -> None:
        """Note a transaction of the migration, as `Sessions.transaction` names it.

        The next start asks the database whether it was committed, which no other note may tell.
        """

    async def committing(self) -> None:
        """Note in the journal that the migration is about to commit, while it is `untouched`.

        A process that is killed earlier has committed nothing, and is not undone. What this
        raises prevents the commit.
        """

    async def differs(self, snapshot: Snapshot) -> bool:
        """Tell whether the target is seen to differ from this run's snapshot by the migration.

        The schema counts, and rows where they can only be the migration's. It is asked after an
        attempt of which nothing is known to have stayed. False where the backend cannot tell.
        """
        return False

    @abstractmethod
    async def restore(self, snapshot: Snapshot, *, disconnect_others: bool = False) -> str | None:
        """Put back this run's own snapshot, which stays.

        Returns where the replaced data is kept; None where only the migration had written to it.
        """

    async def put_back(
        self,
        snapshot: Snapshot,
        tables: Sequence[VersionTable],
        *,
        disconnect_others: bool = False,
    ) -> PutBack:
        """Put back a snapshot of an earlier run, because a person asks for it.

        It replaces whatever the target holds, and closes what was open of other migrations. A
        process that is killed in the middle has put it back, or not, or the next holder's
        `recover` does. Raises RefusedError where the snapshot is not whole.
        """
        raise RefusedError(
            "the backend of this database puts back a run's own snapshot only; nothing was changed"
        )

    def by_hand(self, place: str) -> str:
        """Say how a person puts back a copy at a place that is none of ours; "" for no such one."""
        return ""

    @abstractmethod
    async def prune(self, limits: Limits, folder: Path | None = None) -> tuple[str, ...]:
        """Delete the target's snapshots beyond the limits, and return them.

        This run's own and the last good one stay.
        """

    async def prune_replaced(self, limits: Limits, folder: Path | None = None) -> tuple[str, ...]:
        """Delete data that restores have replaced, beyond the limits, and return what was deleted.

        It may hold what somebody has committed. What this run has kept stays.
        """
        return ()

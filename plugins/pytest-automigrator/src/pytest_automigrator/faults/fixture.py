"""What the fixture `migration_faults` gives to a test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from automigrator import Plan
from pytest_automigrator.databases import Databases
from pytest_automigrator.faults.report import FaultReport
from pytest_automigrator.faults.trials import OF, Trials
from pytest_automigrator.plugin import FAULTS
from pytest_automigrator.walks import Seed, walking


class Faults:
    """Makes faults: `migration_faults("abc", "fail", "kill")` returns a `FaultReport`."""

    def __init__(
        self,
        databases: Databases,
        plan: Plan,
        kind: str,
        folder: Path,
        seed: Seed,
        keep: Callable[[str, str], None],
    ) -> None:
        self._databases, self._plan, self.database = databases, plan, kind
        self._folder, self._seed, self._keep = folder, seed, keep
        self.kinds = OF[kind]
        """The faults that this kind of database can have."""

    def __call__(self, revision: str, *kinds: str) -> FaultReport:
        """Make these faults at every statement of a revision; default: all that there are.

        Raises ValueError for a revision, or a fault, that there is not.
        """
        for kind in kinds:
            if kind not in self.kinds:
                raise ValueError(f"{kind!r} is none of the faults {', '.join(self.kinds)}")
        if revision not in {each.revision for each in self._plan.revisions}:
            raise ValueError(f"there is no revision {revision!r}")
        with walking(self._databases, self._folder, self._plan.revisions) as walks:
            report = Trials(walks, self.database, revision, self._seed).run(kinds or self.kinds)
        self._keep(FAULTS, json.dumps(report.to_dict()))
        return report

    def chosen(self) -> list[str]:
        """The revisions that `automigrator_faults` names. Raises ValueError for an unknown one."""
        named = self._databases.application.settings.faults
        if named == ("heads",):
            return list(self._plan.after)
        ids = [each.revision for each in self._plan.revisions]
        if named == ("all",):
            return ids
        if unknown := [each for each in named if each not in ids]:
            raise ValueError(f"automigrator_faults names no revision: {', '.join(unknown)}")
        return list(named)

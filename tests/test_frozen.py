"""Values that do not change: compared, copied and pickled like any other."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest

from automigrator import Report, Target, TargetReport


def test_reports_are_equal_by_value_and_can_be_copied() -> None:
    report = Report((TargetReport("app", "current", after=("r1",)),), 1.0)
    same = Report((TargetReport("app", "current", after=("r1",)),), 1.0)
    assert report == same == pickle.loads(pickle.dumps(report))
    assert hash(report) == hash(same) and report != Report((), 1.0)
    for change in (lambda: setattr(report, "reason", "no"), lambda: delattr(report, "reason")):
        with pytest.raises(AttributeError, match="does not change"):
            change()


def test_a_target_is_itself_alone_and_can_be_copied(tmp_path: Path) -> None:
    target = Target("sqlite+aiosqlite:///app.db", tmp_path)
    for other in (copy.deepcopy(target), pickle.loads(pickle.dumps(target))):
        assert other != target and vars(other) == vars(target)

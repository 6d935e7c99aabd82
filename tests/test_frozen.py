"""Values that do not change: compared, copied and pickled like any other."""

from __future__ import annotations

import copy
import inspect
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


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((), {}, "missing a required argument: 'database'"),
        (("sqlite://",), {}, "missing a required argument: 'config'"),
        (("sqlite://", ".", "app"), {}, "too many positional arguments"),
        (("sqlite://", "."), {"config": "."}, "multiple values for argument 'config'"),
        (("sqlite://", "."), {"nmae": "app"}, "unexpected keyword argument 'nmae'"),
    ],
)
def test_wrong_arguments_are_refused_as_those_of_a_function(
    arguments: tuple[str, ...], options: dict[str, str], message: str
) -> None:
    with pytest.raises(TypeError, match=f"^Target: .*{message}"):
        Target(*arguments, **options)  # type: ignore[arg-type]  # that is the point


def test_the_signature_of_a_class_gives_its_fields_and_their_defaults() -> None:
    assert str(inspect.signature(Report)) == (
        "(targets: 'tuple[TargetReport, ...]' = (), elapsed_s: 'float' = 0.0, reason: 'str' = '', "
        "rollback: 'bool' = False)"
    )
    parameters = inspect.signature(Target).parameters.values()
    assert [each.name for each in parameters if each.kind is not each.KEYWORD_ONLY] == [
        "database",
        "config",
    ]
    assert {each.name: each.default for each in parameters}["lock_timeout"] == 900.0


def test_a_subclass_has_the_fields_of_its_base(tmp_path: Path) -> None:
    class Tenant(Target):
        region: str = "eu"

    tenant = Tenant("sqlite+aiosqlite:///app.db", tmp_path, name="a", region="us")
    assert (tenant.name, tenant.region, tenant.revision) == ("a", "us", "heads")
    assert list(vars(TargetReport("app", "current", notes=("so",))))[:2] == ["name", "outcome"]

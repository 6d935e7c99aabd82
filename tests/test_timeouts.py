"""One value for all limits of time: a target's own word comes first, and nothing is said twice."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from automigrator import ConfigurationError, Migrator, Target, Timeouts

DEFAULTS = {
    "connect": 60.0,
    "lock": 900.0,
    "retry": 60.0,
    "load": 60.0,
    "statement": None,
    "revision": None,
    "hook": 60.0,
    "run": None,
}
OF_A_TARGET = tuple(DEFAULTS)[:6]


@pytest.fixture
def make(tmp_path: Path) -> Any:
    return lambda **options: Target("sqlite+aiosqlite:///app.db", tmp_path, **options)


def limits(target: Target) -> dict[str, Any]:
    return {name: getattr(target, f"{name}_timeout") for name in OF_A_TARGET}


def test_help_shows_every_limit_and_its_default() -> None:
    parameters = inspect.signature(Timeouts).parameters
    assert {name: each.default for name, each in parameters.items()} == DEFAULTS
    assert all(f"`{name}`: " in str(inspect.getdoc(Timeouts)) for name in DEFAULTS)


def test_without_any_word_the_defaults_hold(make: Any) -> None:
    (target,) = Migrator(make()).targets
    assert limits(target) == {name: DEFAULTS[name] for name in OF_A_TARGET}


def test_a_targets_word_comes_before_its_migrators(make: Any) -> None:
    mine = make(timeouts=Timeouts(lock=1, statement=None), retry_timeout=2)
    migrator = Migrator(mine, timeouts=Timeouts(lock=10, statement=10, retry=10, load=10, run=10))

    (target,) = migrator.targets
    told = {"lock": 1, "statement": None, "retry": 2, "load": 10, "connect": 60, "revision": None}
    assert limits(target) == told
    assert (migrator.timeouts.run, migrator.timeouts.hook) == (10, 60)
    assert limits(mine)["load"] == 60  # another migrator's is its own


def test_the_old_options_hold_until_1_0(make: Any) -> None:
    old = {f"{name}_timeout": 7 for name in OF_A_TARGET}
    migrator = Migrator(make(**old), hook_timeout=7, run_timeout=7)
    assert set(limits(migrator.targets[0]).values()) == {7}
    assert migrator.timeouts == Timeouts(hook=7, run=7)


@pytest.mark.parametrize("name", DEFAULTS)
def test_one_limit_is_not_given_twice(name: str, make: Any) -> None:
    # the default, said explicitly, is a word as well
    twice: Any = {f"{name}_timeout": DEFAULTS[name] or 5, "timeouts": Timeouts(**{name: 5})}
    message = rf"^{name}_timeout= and Timeouts\({name}=\) are one limit: leave one of them out$"
    with pytest.raises(ConfigurationError, match=message):
        make(**twice) if name in OF_A_TARGET else Migrator(make(), **twice)


@pytest.mark.parametrize("name", ["hook", "run"])
def test_the_limits_of_a_run_are_the_migrators(name: str, make: Any) -> None:
    with pytest.raises(ConfigurationError, match="give it to Migrator"):
        make(timeouts=Timeouts(**{name: 5}))


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        *((name, -1) for name in DEFAULTS),
        *((name, "5") for name in DEFAULTS),
        *((name, True) for name in DEFAULTS),
        *((name, float("nan")) for name in DEFAULTS),
        *((name, 0) for name in DEFAULTS if name not in ("retry", "statement")),
        *((name, None) for name in DEFAULTS if name not in ("statement", "revision", "run")),
    ],
)
def test_what_is_no_limit_is_refused_wherever_it_is_given(
    name: str, seconds: Any, make: Any
) -> None:
    with pytest.raises(ConfigurationError, match=rf"^Timeouts\({name}=\) is seconds above zero"):
        Timeouts(**{name: seconds})
    if seconds is None and name == "hook":
        return  # an option of a migrator that is left out
    option: Any = {f"{name}_timeout": seconds}
    with pytest.raises(ConfigurationError, match=f"^{name}_timeout is seconds above zero"):
        make(**option) if name in OF_A_TARGET else Migrator(make(), **option)


def test_zero_tries_nothing_again_and_lifts_the_servers_limit() -> None:
    assert Timeouts(retry=0, statement=0).given == ("retry", "statement")


@pytest.mark.parametrize("timeouts", [5, {"lock": 5}])
def test_anything_else_is_refused(timeouts: Any, make: Any) -> None:
    for build in (make, lambda timeouts: Migrator(make(), timeouts=timeouts)):
        with pytest.raises(ConfigurationError, match=r"is not a Timeouts\(\.\.\.\)"):
            build(timeouts=timeouts)

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from automigrator.errors import ConfigurationError, PluginError
from automigrator.failure import KINDS, Failure, State
from automigrator.hooks import effects, strategies
from automigrator.support.entry_points import Installed

Install = Callable[..., None]

PURGE = """
class Purge:
    effect = "discarding"
    def __init__(self, *, keep: int = 1, label: str = "") -> None:
        if keep < 0:
            raise ValueError("keep must not be negative")
        self.keep = keep
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a distribution that has one module and, for each name, an entry point."""

    def installed(
        dist: str, module: str, source: str, *, version: str = "1.0", **entries: str
    ) -> None:
        site = tmp_path / dist
        info = site / f"{dist.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: {version}\n")
        lines = [f"{name} = {module}:{attribute}" for name, attribute in entries.items()]
        group = f"[{strategies.ENTRY_POINT_GROUP}]"
        (info / "entry_points.txt").write_text("\n".join([group, *lines, ""]))
        (site / f"{module}.py").write_text(source)
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, module, raising=False)

    return installed


def test_a_named_strategy_is_built_with_its_options_and_others_are_not_imported(
    install: Install,
) -> None:
    install("automigrator-purge", "am_purge", PURGE, purge="Purge")
    install("automigrator-bad", "am_bad", "raise RuntimeError('imported')", bad="Bad")
    ((name, strategy), (again, plain)) = strategies.load([("purge", {"keep": 3}), "purge"])
    assert (name, again) == ("purge", "purge")
    assert (vars(strategy), vars(plain)) == ({"keep": 3}, {"keep": 1})
    assert "am_bad" not in sys.modules


def test_instances_are_taken_as_they_are_in_configured_order(install: Install) -> None:
    class Mine:
        pass

    install("automigrator-purge", "am_purge", PURGE, purge="Purge")
    mine = Mine()
    (first, (second, _)) = strategies.load([mine, "purge"])
    assert first == (Mine.__qualname__, mine)
    assert second == "purge"


def test_nothing_configured_loads_nothing() -> None:
    assert strategies.load(()) == ()


def test_an_unknown_name_is_refused_with_what_is_installed_and_how_to_get_it(
    install: Install,
) -> None:
    install("automigrator-purge", "am_purge", PURGE, purge="Purge")
    with pytest.raises(PluginError) as info:
        strategies.load(["purg"])
    for part in ("'purg'", "did you mean purge", "Installed: "):
        assert part in str(info.value)
    assert "pip install" not in str(info.value)


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Installed, "_entries", ())


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("name", ["purge", "Purge", "purg", "backup_restore", "log.and-Continue"])
def test_what_comes_with_a_distribution_of_ours_is_said_to(name: str) -> None:
    with pytest.raises(PluginError, match=r"pip install automigrator-[a-z-]+$"):
        strategies.load([name])


@pytest.mark.usefixtures("nothing_installed")
def test_a_frozen_program_is_told_what_to_build_it_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(PluginError, match="without the metadata of automigrator-purge") as info:
        strategies.load(["purge"])
    assert "pip install" not in str(info.value)


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("name", ["s3-backup", "evil\nname", "", "automigrator"])
def test_nobody_is_told_to_install_what_anybody_may_have_published(name: str) -> None:
    with pytest.raises(PluginError) as info:
        strategies.load([name])
    assert "pip install" not in str(info.value)


def test_the_names_of_ours_are_those_that_are_released_with_the_core() -> None:
    folders = (Path(__file__).parents[2] / "plugins").iterdir()
    assert set(strategies.OURS) < {each.name.removeprefix("automigrator-") for each in folders}


def test_names_are_compared_as_those_of_distributions_are(install: Install) -> None:
    install("automigrator-x", "am_x", PURGE, Log_And_purge="Purge")
    ((name, _),) = strategies.load(["log-and.purge"])
    assert name == "log-and-purge"
    install("automigrator-y", "am_y", PURGE, **{"log-and-purge": "Purge"})
    with pytest.raises(PluginError, match=r"automigrator-x 1\.0 and automigrator-y 1\.0"):
        strategies.load(["Log-And-Purge"])


def test_a_name_that_two_distributions_provide_is_refused_with_both(install: Install) -> None:
    install("automigrator-purge", "am_purge", PURGE, purge="Purge")
    install("other-purge", "am_other", PURGE, version="2.0", purge="Purge")
    with pytest.raises(PluginError, match=r"automigrator-purge 1\.0 and other-purge 2\.0"):
        strategies.load(["purge"])


ENDING = (
    "import sys; sys.exit(3)",
    "raise SystemExit",
    "raise GeneratorExit",
    "import asyncio; raise asyncio.CancelledError",
    "class Own(BaseException): pass\nraise Own('x')",
)


@pytest.mark.parametrize("source", ["import nowhere_at_all", "Other = 1", "def broken(:", *ENDING])
def test_a_strategy_that_cannot_be_imported_is_refused_with_its_distribution(
    install: Install, source: str
) -> None:
    install("automigrator-purge", "am_purge", source, version="0.9", purge="Purge")
    with pytest.raises(PluginError, match=r"automigrator-purge 0\.9 cannot be imported") as info:
        strategies.load(["purge"])
    assert info.value.__cause__ is not None


@pytest.mark.parametrize("source", ENDING)
def test_a_strategy_whose_constructor_ends_the_process_is_refused(
    install: Install, source: str
) -> None:
    body = "".join(f"        {line}\n" for line in source.splitlines())
    install(
        "automigrator-purge",
        "am_purge",
        f"class Purge:\n    def __init__(self):\n{body}",
        purge="Purge",
    )
    with pytest.raises(PluginError, match=r"'purge' of automigrator-purge 1\.0 cannot be made"):
        strategies.load(["purge"])


def test_ctrl_c_while_a_strategy_is_imported_passes(install: Install) -> None:
    install("automigrator-purge", "am_purge", "raise KeyboardInterrupt", purge="Purge")
    with pytest.raises(KeyboardInterrupt):
        strategies.load(["purge"])


def test_an_entry_point_that_is_no_class_is_refused(install: Install) -> None:
    install("automigrator-purge", "am_purge", "Purge = object()", purge="Purge")
    with pytest.raises(PluginError, match="is not a class"):
        strategies.load(["purge"])


def test_an_unknown_option_is_refused_with_those_accepted_and_without_its_value(
    install: Install,
) -> None:
    install("automigrator-purge", "am_purge", PURGE, purge="Purge")
    with pytest.raises(PluginError, match=r"'purge'.*did you mean keep\?.*: keep, label") as info:
        strategies.load([("purge", {"kep": "hunter2"})])
    assert "hunter2" not in str(info.value)


def test_options_for_a_strategy_without_any_are_refused(install: Install) -> None:
    install("automigrator-purge", "am_purge", "class Purge: pass", purge="Purge")
    with pytest.raises(PluginError, match="It takes no options"):
        strategies.load([("purge", {"keep": 1})])


def test_a_missing_option_is_refused(install: Install) -> None:
    source = "class Purge:\n    def __init__(self, bucket): ..."
    install("automigrator-purge", "am_purge", source, purge="Purge")
    with pytest.raises(PluginError, match="bucket"):
        strategies.load(["purge"])


def test_an_option_that_the_constructor_refuses_is_a_plugin_error(install: Install) -> None:
    install("automigrator-purge", "am_purge", PURGE, purge="Purge")
    with pytest.raises(PluginError, match=r"'purge' of .* refuses.*must not be neg") as info:
        strategies.load([("purge", {"keep": -1})])
    assert isinstance(info.value.__cause__, ValueError)


def test_a_class_is_refused_where_an_instance_is_wanted() -> None:
    class Purge:
        pass

    with pytest.raises(PluginError, match=r"pass Purge\(\), not Purge"):
        strategies.load([Purge])


def test_a_string_instead_of_a_list_is_refused_with_the_right_spelling() -> None:
    with pytest.raises(ConfigurationError, match=r"write recovery=\['purge'\]"):
        strategies.load("purge")


@pytest.mark.parametrize(
    "specs",
    [
        object(),
        {"purge": {}},
        [None],
        [{"purge": {}}],
        [["purge", {}]],
        [("purge",)],
        [("purge", "keep=1")],
        [("purge", {1: 2})],
    ],
)
def test_a_malformed_list_is_refused(specs: Any) -> None:
    with pytest.raises(ConfigurationError, match="recovery="):
        strategies.load(specs)


def test_an_effect_is_none_unless_declared_and_nonsense_is_refused() -> None:
    class Plain:
        pass

    class Reverting:
        effect = "reverting"

    class Odd:
        effect = "deleting"

    assert strategies.effect_of(Plain()) == "none"
    assert strategies.effect_of(Reverting()) == "reverting"
    with pytest.raises(PluginError, match="effect='deleting'"):
        strategies.load([Odd()])


def test_a_strategy_acts_on_python_errors_only_where_it_declares_that() -> None:
    class Plain:
        effect = "discarding"

    class Odd(Plain):
        python_errors = "yes"

    assert not effects.acts_on_python_errors(Plain())
    with pytest.raises(PluginError, match="python_errors='yes'"):
        strategies.load([Odd()])


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("blames", ["data", "code", "surroundings"])
@pytest.mark.parametrize("state", ["clean", "partial-at-boundary", "partial-within-revision"])
def test_a_strategy_may_change_data_only_where_its_effect_allows_it(
    kind: Any, state: State, blames: Any
) -> None:
    failure = Failure(kind, "boom", state, blames=blames)
    discardable = kind in {"revision", "corrupt"} and blames == "data"
    assert effects.may_act("discarding", failure) is discardable
    assert effects.may_act("reverting", failure) is (state != "clean")
    assert not effects.may_act("none", failure)
    assert effects.may_answer("discarding", failure) is discardable
    by_code = effects.may_act("discarding", failure, python_errors=True)
    assert by_code is (kind in {"revision", "corrupt"} and blames != "surroundings")
    assert effects.may_answer("reverting", failure) and effects.may_answer("none", failure)

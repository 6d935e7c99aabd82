"""What a strategy is before anything has failed: loadable, well formed, honest in its effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from automigrator.errors import ConfigurationError, PluginError
from automigrator.hooks import effects, strategies
from automigrator.hooks.registry import Hooks
from automigrator.testing.conformance import Conformance

_UNKNOWN = "no_such_option"


class Face(Conformance):
    """The strategy, and how it is found."""

    __test__ = False

    name: ClassVar[str | None] = None
    """The entry point's name; None for a strategy in-house, which `make` returns."""
    options: ClassVar[Mapping[str, Any]] = {}
    """What the strategy is configured with."""

    def make(self) -> object:
        """A new strategy; in a process of its own as well, where only the class is known.

        Raises ConfigurationError for a suite that says neither.
        """
        if self.name is None:
            raise ConfigurationError(f"{type(self).__name__} needs a name, or a make() of its own")
        ((_, strategy),) = strategies.load([(self.name, self.options)])
        return strategy

    def test_its_effect_is_one_of_those_there_are(self) -> None:
        try:
            effects.effect_of(self.make())
        except PluginError as error:
            raise AssertionError(str(error)) from None

    def test_its_hooks_can_be_called(self) -> None:
        strategy = self.make()
        try:
            Hooks((), [(type(strategy).__qualname__, strategy)])
        except PluginError as error:
            raise AssertionError(str(error)) from None

    def test_its_name_leads_to_it(self) -> None:
        if self.name is None:
            pytest.skip("in-house: nothing is loaded by name")
        try:
            ((_, loaded),) = strategies.load([(self.name, self.options)])
        except PluginError as error:
            raise AssertionError(str(error)) from None
        made = self.make()
        assert type(loaded) is type(made), (
            f"the name {self.name!r} leads to {type(loaded).__qualname__}, "
            f"and make() returns {type(made).__qualname__}"
        )

    def test_an_option_that_it_does_not_know_is_refused(self) -> None:
        if self.name is None:
            pytest.skip("in-house: nothing is configured by name")
        try:
            strategies.load([(self.name, {**self.options, _UNKNOWN: 1})])
        except PluginError as error:
            said = str(error)
        else:
            raise AssertionError(
                f"the option {_UNKNOWN}=1 is accepted: a misspelt option would do nothing, unseen"
            )
        assert _UNKNOWN in said, f"the error does not name the option: {said}"

"""The plugins of a migrator: in-house ones, and each target's strategies, loaded when needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from automigrator.support.concurrency import in_thread

if TYPE_CHECKING:  # they import pluggy, which a start with nothing to do needs for no plugin
    from automigrator.hooks.registry import Hooks
    from automigrator.hooks.strategies import StrategySpec


class Plugins:
    """`in_house` objects, and the strategies that `recovery` names for each target's name.

    `timeout_s`: seconds that a call of an in-house hook may take. Raises PluginError for an
    in-house plugin that cannot be used.
    """

    def __init__(
        self,
        in_house: Sequence[object],
        recovery: Mapping[str, Sequence[StrategySpec]],
        timeout_s: float,
    ) -> None:
        self.any = bool(in_house)
        self._in_house, self._recovery, self._timeout_s = in_house, recovery, timeout_s
        self._of: dict[str, Hooks] | None = None
        if in_house:
            self.in_house.listened  # noqa: B018 - a wrong plugin is refused here

    @cached_property
    def in_house(self) -> Hooks:
        """The in-house plugins alone."""
        from automigrator.hooks.registry import Hooks

        return Hooks(self._in_house, (), deadline_s=self._timeout_s)

    async def load(self) -> Mapping[str, Hooks]:
        """Load every target's strategies, once: a wrong one stops the run before it begins.

        Returns the in-house plugins and the strategies by the target's name. Raises PluginError.
        """
        if self._of is None:

            def loaded() -> dict[str, Hooks]:
                from automigrator.hooks import strategies

                return {
                    name: self.in_house.with_strategies(strategies.load(spec))
                    for name, spec in self._recovery.items()
                }

            self._of = await in_thread(loaded)
        return self._of

    async def aclose(self) -> None:
        """Let in-house listeners finish, where there are any."""
        if "in_house" in vars(self):
            await self.in_house.aclose()

"""What other distributions provide under an entry-point group, loaded by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from automigrator.errors import PluginError
from automigrator.frozen import Frozen
from automigrator.support.secrets import scrubbed

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


class Installed(Frozen):
    """The entry points of `group`; nothing is looked up, or imported, before it is named.

    `what` is how messages call one of them, `hint` ends the message about a missing one ({name}
    stands for its name), and `built_in` are names that need no entry point.
    """

    group: str
    what: str
    hint: str = ""
    built_in: tuple[str, ...] = ()

    def load(
        self, name: str, fits: Callable[[object], bool] = callable, wanted: str = "a callable"
    ) -> tuple[Any, str]:
        """The object that the entry point `name` leads to, and how messages call it.

        Raises PluginError for one that is missing, ambiguous, cannot be imported, or does not
        fit: `wanted` says what it should be.
        """
        entry = self._only(name)
        called = f"{self.what} {name!r} of {_distribution(entry)}"
        try:
            loaded = entry.load()
        except Exception as error:
            raise PluginError(
                f"{called} cannot be imported: {described(error)}; nothing was changed"
            ) from error
        if not fits(loaded):
            raise PluginError(
                f"{called} is not {wanted}: its entry point {entry.value} is a "
                f"{type(loaded).__qualname__}; nothing was changed"
            )
        return loaded, called

    @cached_property
    def _entries(self) -> tuple[EntryPoint, ...]:
        from importlib.metadata import entry_points

        return tuple(entry_points(group=self.group))

    def _only(self, name: str) -> EntryPoint:
        matches = [entry for entry in self._entries if entry.name == name]
        if len(matches) == 1:
            return matches[0]
        if matches:
            owners = " and ".join(sorted(_distribution(entry) for entry in matches))
            raise PluginError(
                f"{self.what} {name!r} is provided by {owners}; uninstall all but one"
            )
        names = sorted({*self.built_in, *(entry.name for entry in self._entries)})
        raise PluginError(
            f"no {self.what} {name!r} is installed; {suggestion(name, names)}"
            + (f"Installed: {', '.join(names)}. " if names else "None is installed. ")
            + self.hint.format(name=name)
        )


def suggestion(name: str, names: Iterable[str]) -> str:
    """A question after the one of `names` that looks like `name`; empty when none does."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"did you mean {close[0]}? " if close else ""


def described(error: Exception) -> str:
    """The type and the text of an error, without secrets."""
    return f"{type(error).__qualname__}: {scrubbed(str(error))}"


def _distribution(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"

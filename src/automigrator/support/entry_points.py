"""What other distributions provide under an entry-point group, loaded by name."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from automigrator.errors import ConfigurationError, PluginError
from automigrator.frozen import Frozen
from automigrator.printable import in_a_line
from automigrator.support.secrets import scrubbed

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


_COMES = "It comes with: pip install automigrator-{}"

_BUILT = (
    "This program was built without it, or without the metadata of automigrator-{0}, which names "
    "it: build with both (PyInstaller: --collect-all, --copy-metadata automigrator-{0})"
)


class Installed(Frozen):
    """The entry points of `group`; nothing is looked up, or imported, before it is named.

    `what` is how messages call one of them, `hint` ends the message about a missing one, and
    `built_in` are names that need no entry point. `ours` are those that come with a distribution
    of ours, `automigrator-` and the name: no other name makes a message say what to install, as
    anybody may have taken it. Names are compared as those of distributions are.
    """

    group: str
    what: str
    hint: str = ""
    built_in: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()

    def load(
        self, name: str, fits: Callable[[object], bool] = callable, wanted: str = "a callable"
    ) -> tuple[Any, str]:
        """The object that the entry point `name` leads to, and how messages call it.

        Raises PluginError for one that is missing, ambiguous, cannot be imported, wants to end the
        process, or does not fit: `wanted` says what it should be.
        """
        entry = self._only(name)
        called = f"{self.what} {name!r} of {_distribution(entry)}"
        with blamed(f"{called} cannot be imported"):
            loaded = entry.load()
        if not fits(loaded):
            raise PluginError(
                f"{called} is not {wanted}: its entry point {entry.value} is a "
                f"{type(loaded).__qualname__}; nothing was changed"
            )
        return loaded, called

    def make(self, name: str, options: Mapping[str, Any]) -> object:
        """Make an object of the class that the entry point `name` leads to.

        Raises PluginError, also where it does not take these options.
        """
        kind, called = self.load(name, inspect.isclass, "a class")
        return made(kind, options, f"{self.what} {name!r}", called)

    @cached_property
    def _entries(self) -> tuple[EntryPoint, ...]:
        from importlib.metadata import entry_points

        return tuple(entry_points(group=self.group))

    def _only(self, name: str) -> EntryPoint:
        matches = [e for e in self._entries if normalised(e.name) == normalised(name)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            owners = " and ".join(sorted(_distribution(entry) for entry in matches))
            raise PluginError(
                f"{self.what} {name!r} is provided by {owners}; uninstall all but one"
            )
        names = sorted({*self.built_in, *(entry.name for entry in self._entries)})
        meant = _closest(normalised(name), {*names, *self.ours})
        more = f"Installed: {', '.join(names)}. " if names else "none is. "
        if meant in self.ours and meant not in names:
            more += _BUILT.format(meant) if _is_frozen() else _COMES.format(meant)
        question = f"did you mean {meant}? " if meant not in (None, normalised(name)) else ""
        raise PluginError(
            f"no {self.what} {name!r} is installed; {question}{more}{self.hint}".rstrip()
        )


def made(kind: type, options: Mapping[str, Any], what: str, called: str) -> object:
    """Make an object of a class from `options`.

    `what` and `called` are how messages call it, without and with its distribution. Raises
    PluginError for an option too many or too few, without repeating values, and for what the class
    refuses; a ConfigurationError of its own is one of these.
    """
    signature = inspect.signature(kind)
    try:
        signature.bind(**options)
    except TypeError as error:
        accepted = [
            parameter.name
            for parameter in signature.parameters.values()
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        ]
        unknown = [option for option in options if option not in accepted]
        raise PluginError(
            f"{what}: {error}; "
            + (suggestion(unknown[0], accepted) if unknown else "")
            + (f"Its options: {', '.join(accepted)}" if accepted else "It takes no options")
        ) from error
    with blamed(f"{called} cannot be made"):
        try:
            return kind(**options)
        except (ValueError, TypeError, ConfigurationError) as error:
            raise PluginError(f"{called} refuses its options: {described(error)}") from error


@contextmanager
def blamed(what: str) -> Iterator[None]:
    """Context manager: whatever a plugin's code raises is a PluginError, `sys.exit()` too.

    A ConfigurationError says itself what is wrong, and Ctrl-C is nobody's error.
    """
    try:
        yield
    except (ConfigurationError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise PluginError(f"{what}: {described(error)}; nothing was changed") from error


def _is_frozen() -> bool:
    """Whether this is a program of PyInstaller or the like, which has only what it was built of."""
    return bool(getattr(sys, "frozen", False))


def normalised(name: str) -> str:
    """The name as package indexes compare it: `Log_and.continue` is `log-and-continue`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def suggestion(name: str, names: Iterable[str]) -> str:
    """A question after the one of `names` that looks like `name`; empty when none does."""
    close = _closest(name, names)
    return f"did you mean {close}? " if close else ""


def _closest(name: str, names: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, list(names), n=1)), None)


def described(error: BaseException) -> str:
    """The type and the text of an error, without secrets."""
    return f"{type(error).__qualname__}: {in_a_line(scrubbed(str(error)))}"


def _distribution(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"

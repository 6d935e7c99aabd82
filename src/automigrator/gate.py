"""Whether this process may migrate: `mode=`, else `RUN_MIGRATIONS`, else no."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal, get_args

from automigrator.errors import ConfigurationError

Mode = Literal["migrate", "check", "wait", "skip"]
VARIABLE = "RUN_MIGRATIONS"

_WORDS: dict[str, Mode] = {
    **dict.fromkeys(("1", "true", "yes", "on"), "migrate"),
    **dict.fromkeys(("0", "false", "no", "off", ""), "skip"),
    "check": "check",
    "wait": "wait",
}


def validated(mode: str | None) -> Mode | None:
    """Return `mode` when it is one; raise ConfigurationError naming the values when it is not."""
    if mode is None or mode in get_args(Mode):
        return mode  # type: ignore[return-value]  # narrowed by the line above
    raise ConfigurationError(
        f"mode={mode!r} is not one of {', '.join(map(repr, get_args(Mode)))}; "
        f"leave it out and {VARIABLE} in the environment says"
    )


def resolve(mode: Mode | None, environ: Mapping[str, str] | None = None) -> Mode:
    """The mode in force. Raises ConfigurationError when `RUN_MIGRATIONS` holds an unknown word."""
    if mode is not None:
        return mode
    word = (os.environ if environ is None else environ).get(VARIABLE, "")
    try:
        return _WORDS[word.strip().lower()]
    except KeyError:
        raise ConfigurationError(
            f"{VARIABLE}={word!r} is not understood; use 1/true/yes/on to migrate, "
            "0/false/no/off (or leave it unset) to skip, check to raise when anything is pending, "
            "wait to wait until another process has migrated"
        ) from None

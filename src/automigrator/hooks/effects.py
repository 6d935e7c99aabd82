"""The effects that a strategy may declare, and what each of them allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from automigrator.errors import PluginError

if TYPE_CHECKING:
    from automigrator.failure import Failure, FailureKind

Effect = Literal["discarding", "reverting", "none"]

"""Discarding deletes data, reverting restores an earlier state, none changes nothing."""


def acts_on_python_errors(strategy: object) -> bool:
    """Whether a strategy's attribute `python_errors` says so. Raises PluginError for nonsense."""
    value = getattr(strategy, "python_errors", False)
    if isinstance(value, bool):
        return value
    raise PluginError(
        f"{type(strategy).__qualname__} declares python_errors={value!r}, which is not True or "
        "False"
    )


DISCARDABLE: frozenset[FailureKind] = frozenset({"revision", "corrupt"})

"""The only kinds a discarding strategy is asked about; the state never widens this."""


def effect_of(strategy: object) -> Effect:
    """The strategy's attribute `effect`. Raises PluginError for a value that is no effect."""
    effect = getattr(strategy, "effect", "none")
    if isinstance(effect, str) and effect in get_args(Effect):
        return effect  # type: ignore[return-value]  # narrowed by the line above
    raise PluginError(
        f"{type(strategy).__qualname__} declares effect={effect!r}, "
        f"which is not one of {', '.join(map(repr, get_args(Effect)))}"
    )


def may_act(effect: Effect, failure: Failure, *, python_errors: bool = False) -> bool:
    """Whether a strategy of this effect may change data after this failure.

    `python_errors`: whether the revision's own code may be a reason to discard data, too.
    """
    match effect:
        case "discarding":
            by_code = python_errors and failure.blames == "code"
            return failure.kind in DISCARDABLE and (failure.blames == "data" or by_code)
        case "reverting":
            return failure.state != "clean"
        case "none":
            return False


def may_answer(effect: Effect, failure: Failure, *, python_errors: bool = False) -> bool:
    """Whether a strategy of this effect is asked about this failure at all."""
    return effect != "discarding" or may_act(effect, failure, python_errors=python_errors)

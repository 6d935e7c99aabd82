"""Frozen values as JSON objects, read back with each value checked against its type hint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from automigrator.frozen import Frozen

T = TypeVar("T", bound=Frozen)

LIMIT = 2 * 2**20
"""Characters of a text that is read: ours is far shorter, and somebody may have written another."""

_DEEPEST, _LONGEST, _LARGEST = 20, 2**16, 2**64
"""How deep what is read may be nested, the characters of a text in it, and the numbers."""

_YEAR_9000 = 221845392000.0
"""What comes later is no time that could be told, with what is added to it."""


def parsed(text: str | bytes | None) -> Any:
    """Decode a JSON text that others may have written. Raises ValueError for what is none of ours.

    That is one that is too long, nested too deeply, or has numbers or texts beyond all measure.
    """
    if len(text or "") > LIMIT:
        raise ValueError(f"it is longer than {LIMIT:,} characters")
    try:
        data = json.loads(text or "")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _measure(data, _DEEPEST)
    return data


def _measure(value: object, levels: int) -> None:
    if isinstance(value, str):
        if len(value) > _LONGEST:
            raise ValueError(f"a text in it is longer than {_LONGEST:,} characters")
    elif isinstance(value, int | float):
        if not abs(value) < _LARGEST:  # NaN is not, either
            raise ValueError("a number in it is too large")
    elif isinstance(value, dict | list):
        if not levels:
            raise ValueError("it is nested too deeply")
        for each in value.values() if isinstance(value, dict) else value:
            _measure(each, levels - 1)


def read(kind: type[T], data: object, *, strict: bool = False) -> T:
    """Make a `kind` of a decoded JSON object.

    A missing key takes the field's default. An unknown key is passed over, unless the object is
    read `strict`. Hints may be str, int, float, bool, None, Literal, tuples, unions and Frozen
    values of these, and Mapping, which takes any object; a float is a time in seconds since the
    epoch. Raises ValueError that names the field.
    """
    if not isinstance(data, dict):
        raise ValueError("it is not a JSON object")
    known = kind.fields()
    if strict and (unknown := sorted(set(data) - set(known))):
        raise ValueError(f"this release does not know what it says of {', '.join(unknown)}")
    hints = get_type_hints(kind)
    values = {}
    for name, needed in known.items():
        if name in data:
            values[name] = _checked(data[name], hints[name], name)
        elif needed:
            raise ValueError(f"{name} is missing")
    return kind(**values)


def dumped(value: object) -> str:
    """The JSON text of a Frozen value, or of a structure of them."""
    return json.dumps(value, default=vars)


def _checked(found: Any, hint: Any, name: str) -> Any:
    origin, kinds = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        for each in kinds:
            with suppress(ValueError):
                return _checked(found, each, name)
    elif origin is Literal:
        if found in kinds:
            return found
    elif origin is tuple:
        if isinstance(found, list):
            if kinds[-1] is Ellipsis:
                kinds = kinds[:1] * len(found)
            if len(kinds) == len(found):
                return tuple(_checked(*each, name) for each in zip(found, kinds, strict=True))
    elif origin is Mapping:
        if isinstance(found, dict):
            return found
    elif isinstance(hint, type) and issubclass(hint, Frozen):
        if isinstance(found, dict):
            return read(hint, found)
    elif hint is float:
        if type(found) in (int, float) and 0 <= found < _YEAR_9000:  # which NaN is not either
            return float(found)
    elif type(found) is hint:  # True is an int, too
        return found
    raise ValueError(f"{name} is {repr(found)[:200]}, not {getattr(hint, '__name__', hint)}")

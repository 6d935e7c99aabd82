"""JSON objects read into frozen dataclasses, each value checked against the field's type hint."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")

_LARGEST = 1e300


def read(kind: type[T], data: object, *, strict: bool = False) -> T:
    """Make a `kind`, which is a dataclass, of a decoded JSON object.

    A missing key takes the field's default. An unknown key is passed over, unless the object is
    read `strict`. Hints may be str, int, float, bool, None, Literal, tuples, unions and dataclasses
    of these, and Mapping, which takes any object. Raises ValueError that names the field.
    """
    if not isinstance(data, dict):
        raise ValueError("it is not a JSON object")
    known = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]
    if strict and (unknown := sorted(set(data) - set(known))):
        raise ValueError(f"this release does not know what it says of {', '.join(unknown)}")
    hints = get_type_hints(kind)
    values = {}
    for name, each in known.items():
        if name in data:
            values[name] = _checked(data[name], hints[name], name)
        elif each.default is MISSING and each.default_factory is MISSING:
            raise ValueError(f"{name} is missing")
    return kind(**values)


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
    elif is_dataclass(hint):
        if isinstance(found, dict):
            return read(cast(type, hint), found)
    elif hint is float:
        if type(found) in (int, float) and abs(found) < _LARGEST:  # which NaN is not either
            return float(found)
    elif type(found) is hint:  # True is an int, too
        return found
    raise ValueError(f"{name} is {found!r}, not {getattr(hint, '__name__', hint)}")

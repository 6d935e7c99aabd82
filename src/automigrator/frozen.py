"""A base of values that do not change, for those that every start imports."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from itertools import takewhile
from typing import Any, ClassVar, Self, dataclass_transform

_NEEDED = inspect.Parameter.empty
_BY_POSITION = inspect.Parameter.POSITIONAL_OR_KEYWORD
_BY_NAME = inspect.Parameter.KEYWORD_ONLY


class _Signature:
    """The signature of a class, built when somebody asks for it, as `help` does."""

    def __get__(self, value: object, kind: type[Frozen]) -> inspect.Signature:
        parameters = []
        for name, default in kind._fields.items():
            how = _BY_POSITION if name in kind._first else _BY_NAME
            hint = kind._hints[name]
            parameters.append(inspect.Parameter(name, how, default=default, annotation=hint))
        return inspect.Signature(parameters)


@dataclass_transform(frozen_default=True)
class Frozen:
    """A value whose fields are what its class annotates, and are set when it is made, once.

    It does what a frozen dataclass does, and saves every start the millisecond in which
    `@dataclass` compiles the methods of a class with many fields. Fields after `_: KW_ONLY` are
    given by name, and `__post_init__` may check and complete what was given, with `_set`.
    """

    _hints: ClassVar[dict[str, Any]] = {}
    """Every field's type; after `_` come those that are given by name."""
    _first: ClassVar[tuple[str, ...]]
    """The fields that need not be given by name."""
    _fields: ClassVar[dict[str, Any]]
    """Every field, and its default."""
    _needed: ClassVar[frozenset[str]]
    """The fields without one."""
    __signature__ = _Signature()

    def __init_subclass__(cls) -> None:
        cls._hints = {**cls._hints, **cls.__annotations__}
        cls._first = tuple(takewhile("_".__ne__, cls._hints))
        cls._fields = {name: getattr(cls, name, _NEEDED) for name in cls._hints if name != "_"}
        cls._needed = frozenset(e for e, default in cls._fields.items() if default is _NEEDED)

    def __init__(self, *args: Any, **named: Any) -> None:
        given = {**dict(zip(self._first, args, strict=False)), **named}
        fields = {**self._fields, **given}
        wrong = len(given) < len(args) + len(named) or len(fields) > len(self._fields)
        if wrong or not self._needed <= given.keys():
            try:
                self.__signature__.bind(*args, **named)
            except TypeError as error:  # it says which
                raise TypeError(f"{type(self).__name__}: {error}") from None
        vars(self).update(fields)
        self._was_given(given)
        self.__post_init__()

    def _was_given(self, fields: Mapping[str, Any]) -> None:
        """Do nothing with what was given, defaults left out; a class may note it."""

    def __post_init__(self) -> None:
        """Do nothing; a class may do more."""

    @classmethod
    def fields(cls) -> dict[str, bool]:
        """The names of the fields, in order, and whether each must be given."""
        return {name: name in cls._needed for name in cls._fields}

    def _compared(self) -> dict[str, Any]:
        """What two values are compared by, and shown with."""
        return vars(self)

    def _set(self, **fields: Any) -> None:
        vars(self).update(fields)

    def _replace(self, **fields: Any) -> Self:
        """Another value with these fields, as a named tuple makes one."""
        return type(self)(**{**vars(self), **fields})

    def __setattr__(self, name: str, value: object) -> None:
        kind = type(self).__name__
        raise AttributeError(f"a {kind} does not change: make another one with another {name}")

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Frozen) or type(other) is not type(self):
            return NotImplemented
        return self._compared() == other._compared()

    def __hash__(self) -> int:
        return hash(tuple(self._compared().values()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={each!r}" for name, each in self._compared().items())
        return f"{type(self).__name__}({fields})"


def as_json(value: Any) -> Any:
    """The value of a field as JSON types: what of ours can write itself does so."""
    if hasattr(value, "to_dict") and not isinstance(value, BaseException):
        return value.to_dict()
    return [as_json(each) for each in value] if isinstance(value, tuple) else value

"""A base of values that do not change, for those that every start imports."""

from __future__ import annotations

from typing import Any


class Frozen:
    """A value whose fields are set by its `__init__` alone, with `self._set(locals())`.

    It does what a frozen dataclass does, and saves every start the millisecond in which
    `@dataclass` compiles the methods of a class with many fields.
    """

    def _set(self, fields: dict[str, Any]) -> None:
        vars(self).update({name: each for name, each in fields.items() if name != "self"})

    def __setattr__(self, name: str, value: object) -> None:
        kind = type(self).__name__
        raise AttributeError(f"a {kind} does not change: make another one with another {name}")

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(vars(self).values()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={each!r}" for name, each in vars(self).items())
        return f"{type(self).__name__}({fields})"

"""The errors behind an error, and those of a group."""

from __future__ import annotations

from collections.abc import Iterator


def chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and what led to it, a driver's own error right after SQLAlchemy's wrapper."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        each = todo.pop(0)
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        group = each.exceptions if isinstance(each, BaseExceptionGroup) else ()
        todo = [getattr(each, "orig", None), *group, each.__cause__, each.__context__, *todo]

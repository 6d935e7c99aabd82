"""Notes of what each run of an env.py has changed, so that it can be put back when the run ends.

What others have changed meanwhile stays.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Any

from automigrator.migrations.runs.inside import Inside, inside_env

_lock = threading.RLock()
"""For a change and its note. Nothing that takes a lock of the logging module is called under it."""


class NotedList(list[Any]):
    """A list that notes what each run puts in and takes out."""

    def __init__(self, original: list[Any]) -> None:
        super().__init__(original)
        self.original = original
        self.runs: set[Inside] = set()
        """Those that have not ended."""
        self._given = list(original)
        self._before: list[Any] | None = None
        """What there was before the first change of a run."""
        self._balances: dict[Inside, Counter[Any]] = {}
        """How many of each a run has put in, less those that it has taken out."""

    def about_to(self, inside: Inside, put: Counter[Any], taken: Counter[Any]) -> None:
        """Told of a change before it is made. Raises NeedsToBeAlone to prevent it."""

    def put_by(self, inside: Inside, item: Any) -> int:
        """How many of an item a run has put in."""
        return self._balances.get(inside, Counter())[item]

    def put_by_others(self, inside: Inside, item: Any) -> int:
        """How many of an item other runs have put in."""
        return sum(max(0, each[item]) for run, each in self._balances.items() if run is not inside)

    def change(self, inside: Inside, act: Callable[[list[Any]], Any]) -> Any:
        """Let a run make a change, and note it."""
        with _lock:
            before, after = list(self), list(self)
            result = act(after)
            put, taken = Counter(after), Counter(before)
            put.subtract(before)
            taken.subtract(after)
            self.about_to(inside, +put, +taken)
            if self._before is None:
                self._before = before
            self._balances.setdefault(inside, Counter()).update(put)
            list.__setitem__(self, slice(None), after)
            return self if result is after else result

    def end(self, inside: Inside) -> None:
        """Undo what a run has changed."""
        with _lock:
            self.runs.discard(inside)
            # what was added to the list itself, by a name that somebody had for it
            new = (each for each in self.original if each not in self._given and each not in self)
            items = [*self, *new]
            self._given = list(self.original)
            for item, count in self._balances.pop(inside, Counter[Any]()).items():
                for _ in range(count):
                    if item in items:
                        items.remove(item)
                for _ in range(-count):
                    assert self._before is not None
                    items.insert(self._before.index(item), item)
            list.__setitem__(self, slice(None), items)

    def restored(self) -> list[Any]:
        """The original list, with what others have done to this one."""
        if self.original != list(self):
            self.original[:] = self
        return self.original


def _noting(name: str) -> Callable[..., Any]:
    change = getattr(list, name)

    def changed(items: NotedList, *arguments: Any, **options: Any) -> Any:
        inside = inside_env.get()
        if not inside:
            with _lock:
                return change(items, *arguments, **options)
        return items.change(inside, lambda after: change(after, *arguments, **options))

    return changed


for _name in ("append", "insert", "extend", "remove", "pop", "clear", "__setitem__"):
    setattr(NotedList, _name, _noting(_name))
for _name in ("__delitem__", "__iadd__", "__imul__"):
    setattr(NotedList, _name, _noting(_name))


def noted(owner: Any, name: str, inside: Inside, kind: type[NotedList] = NotedList) -> NotedList:
    """The list that is an attribute of `owner`, noting from now on what `inside` changes."""
    with _lock:
        items = getattr(owner, name)
        if not isinstance(items, NotedList):
            items = kind(items)
            setattr(owner, name, items)
        items.runs.add(inside)
        return items


def given_back(owner: Any, name: str, items: NotedList, inside: Inside) -> None:
    """Undo what a run has changed, and after the last run let the original be there again."""
    with _lock:
        items.end(inside)
        if not items.runs and getattr(owner, name) is items:
            setattr(owner, name, items.restored())


class Changes:
    """What runs have changed, by key, so that it can be put back."""

    def __init__(self, read: Callable[[Any], Any], write: Callable[[Any, Any], object]) -> None:
        self._reader = read
        self._write = write
        self._seen: dict[Any, _Change] = {}

    def _read(self, key: Any) -> Any:
        """As nobody's: a run beside others does not see what they have changed."""
        return Context().run(self._reader, key)

    def note(self, inside: Inside, key: Any, change: Callable[[], object]) -> None:
        """Let a run make a change, and note it."""
        with _lock:
            before = self._read(key)
            change()
            seen = self._seen.setdefault(key, _Change(before))
            if seen.runs and seen.left != before:
                seen.before = before  # somebody else has changed it since
            seen.left = self._read(key)
            seen.runs.add(inside)

    def undo(self, inside: Inside) -> bool:
        """Put back what no other run and nobody else has changed; return whether there was any."""
        with _lock:
            own = {key: seen for key, seen in self._seen.items() if inside in seen.runs}
            for key, seen in own.items():
                seen.runs.discard(inside)
                if not seen.runs:
                    del self._seen[key]
                    if seen.left == self._read(key):
                        self._write(key, seen.before)
        return bool(own)

    def of_others(self, inside: Inside) -> Mapping[Any, Any]:
        """What there was before runs changed it of which `inside` is none, by key."""
        if not self._seen:
            return self._seen
        with _lock:
            return {
                key: seen.before
                for key, seen in self._seen.items()
                if inside not in seen.runs and seen.left == self._read(key)
            }


class _Change:
    def __init__(self, before: Any) -> None:
        self.before, self.left = before, before
        """What there was before env.py, and what it left."""
        self.runs: set[Inside] = set()

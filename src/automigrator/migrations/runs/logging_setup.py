"""The application's set-up of logging, which no env.py changes for longer than it runs."""

from __future__ import annotations

import logging
import logging.config
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from automigrator.migrations.runs.inside import Inside, Patches, inside_env, replaced
from automigrator.migrations.runs.noted import Changes, given_back, noted

_known: set[Any] = set()
"""The loggers that were there before a run that lasts, and their manager."""

_lock = threading.Lock()

_handlers: dict[logging.Handler, ExitStack] = {}
"""The handlers that were there, and what lets them be closed again."""


@contextmanager
def guarded_logging(inside: Inside) -> Iterator[None]:
    """Context manager: undo what `inside` does to levels, switches and handlers of loggers.

    Those that were there before it. `fileConfig` and `dictConfig` do nothing, and no handler that
    was there is closed, whoever closes it.
    """
    manager = logging.root.manager
    with _patches.needed():
        there = {logging.root, *list(manager.loggerDict.values())}
        _known.update(there, {manager})
        _keep_open()
        loggers = [each for each in there if isinstance(each, logging.Logger)]
        lists = [(each, noted(each, "handlers", inside)) for each in loggers]
        try:
            yield
        finally:
            if _changes.undo(inside):
                manager._clear_cache()  # type: ignore[attr-defined]  # isEnabledFor's
            for logger, items in lists:
                given_back(logger, "handlers", items, inside)


def _keep_open() -> None:
    with _lock:
        for ref in list(logging._handlerList):  # type: ignore[attr-defined]  # the only list of all
            if (handler := ref()) is not None and handler not in _handlers:
                _handlers[handler] = undo = ExitStack()
                undo.enter_context(replaced(handler, "close", _skipped_in_env(handler.close)))


_changes = Changes(
    lambda key: getattr(key[0], key[1], None), lambda key, value: setattr(key[0], key[1], value)
)


@contextmanager
def _every_call() -> Iterator[None]:
    """Note what env.py sets on loggers, and keep it from setting up logging.

    The functions of `logging.config` may be bound to other names long since, so what they call
    is replaced as well.
    """
    skipped: list[tuple[Any, str, Any]] = [
        (logging.config, "fileConfig", None),
        (logging.config, "dictConfig", None),
        (logging.config.DictConfigurator, "configure", None),
        (logging.config, "_clearExistingHandlers", None),
        (logging.config, "_install_handlers", {}),
        (logging.config, "_install_loggers", None),
    ]
    with ExitStack() as stack:
        for owner, name, instead in skipped:
            if own := getattr(owner, name, None):
                stack.enter_context(replaced(owner, name, _skipped_in_env(own, instead)))
        stack.enter_context(replaced(logging.Logger, "__setattr__", _set))
        stack.enter_context(replaced(logging.Manager, "__setattr__", _set))
        try:
            yield
        finally:
            for undo in _handlers.values():
                undo.close()
            _handlers.clear()
            _known.clear()


_patches = Patches(_every_call)


def _set(owner: Any, name: str, value: Any) -> None:
    change = partial(object.__setattr__, owner, name, value)
    inside = inside_env.get()
    if inside and owner in _known:
        _changes.note(inside, (owner, name), change)
    else:
        change()


def _skipped_in_env(function: Callable[..., Any], instead: Any = None) -> Callable[..., Any]:
    def called(*arguments: Any, **options: Any) -> Any:
        return instead if inside_env.get() else function(*arguments, **options)

    return called

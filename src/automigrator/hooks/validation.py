"""Registers plugins, and explains why one cannot be used."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence

import pluggy

from automigrator.errors import PluginError
from automigrator.hooks.calls import Impl, blame_of
from automigrator.hooks.spec import PROJECT, Hookspecs
from automigrator.support.entry_points import suggestion

HOOKS: dict[str, tuple[str, ...]] = {
    name: tuple(inspect.signature(spec).parameters)[1:]
    for name, spec in vars(Hookspecs).items()
    if inspect.isfunction(spec)
}

"""Every hook and the arguments it offers."""


class PlainManager(pluggy.PluginManager):
    """A PluginManager that takes plain hooks only: order is configuration's, not a plugin's."""

    def __init__(self) -> None:
        super().__init__(PROJECT)
        self.add_hookspecs(Hookspecs)

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        opts = super().parse_hookimpl_opts(plugin, name)
        if opts is not None:
            for option in ("wrapper", "hookwrapper", "tryfirst", "trylast"):
                if opts.get(option):
                    raise PluginError(
                        f"{name} of {blame_of(plugin)} is marked hookimpl({option}=True), which "
                        "automigrator does not have: plugins are asked one after another, in the "
                        "configured order; remove the option"
                    )
        return opts


def registered(plugins: Sequence[tuple[str, object, bool]]) -> dict[str, list[Impl]]:
    """The implementations of every hook, in the order of the plugins.

    A plugin comes with its name and whether it is a strategy. Raises PluginError for one that
    cannot be used.
    """
    manager = PlainManager()
    owners: dict[int, tuple[str, bool]] = {}
    # pluggy calls the last registered first.
    for blame, plugin, strategy in reversed(plugins):
        if id(plugin) in owners:
            raise PluginError(f"the same {blame} object is configured twice; leave one out")
        owners[id(plugin)] = (blame, strategy)
        _validate(manager, blame, plugin)
        try:
            manager.register(plugin, f"{len(owners)}:{blame}")
        except pluggy.PluginValidationError as error:
            raise PluginError(f"{blame} cannot be used: {error}") from error
        except ValueError as error:
            raise PluginError(
                f"{blame} is equal (==) to another configured plugin; leave one out, "
                "or define its class with @dataclass(eq=False)"
            ) from error
    return {
        hook: [
            Impl(
                blame=owners[id(impl.plugin)][0],
                function=impl.function,
                plugin=impl.plugin,
                strategy=owners[id(impl.plugin)][1],
                accepts=_accepts(impl.function, offered),
                hook=hook,
            )
            for impl in reversed(getattr(manager.hook, hook).get_hookimpls())
        ]
        for hook, offered in HOOKS.items()
    }


def _accepts(function: Callable[..., object], offered: Sequence[str]) -> tuple[str, ...]:
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return tuple(offered)
    by_keyword = {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}
    return tuple(name for name in offered if name in by_keyword)


def _validate(manager: PlainManager, blame: str, plugin: object) -> None:
    """Raise PluginError for the mistakes pluggy lets pass or explains badly."""
    if inspect.isclass(plugin):
        name = plugin.__name__
        raise PluginError(f"{name} is a class, not a plugin: pass {name}(), not {name}")
    if isinstance(plugin, str):
        raise PluginError(
            f"{plugin!r} is a string, not a plugin: plugins= takes objects with @hookimpl "
            "methods; the names of recovery strategies go into recovery="
        )
    marked, unmarked = False, []
    for name in dir(plugin):
        opts = manager.parse_hookimpl_opts(plugin, name)
        if opts is not None:
            marked = True
            _validate_impl(blame, plugin, name, opts)
        elif _resembles_hook(plugin, name):
            unmarked.append(name)
    if named := [name for name in unmarked if name in HOOKS or not marked]:
        raise PluginError(
            f"{blame} has {', '.join(named)} without @hookimpl, so nothing would call "
            f"{'it' if len(named) == 1 else 'them'}; decorate with automigrator.hookimpl"
        )
    if not marked:
        raise PluginError(
            f"{blame} has no hooks; decorate at least one of {', '.join(HOOKS)} "
            "with automigrator.hookimpl"
        )


def _validate_impl(blame: str, plugin: object, attribute: str, opts: pluggy.HookimplOpts) -> None:
    hook = opts.get("specname") or attribute
    if hook not in HOOKS:
        if opts.get("optionalhook"):
            return
        raise PluginError(
            f"{blame} implements {hook}, which is no hook; "
            + (suggestion(hook, HOOKS) or f"the hooks are {', '.join(HOOKS)}")
        )
    function = getattr(plugin, attribute)
    unwrapped = inspect.unwrap(function)
    if inspect.isgeneratorfunction(unwrapped) or inspect.isasyncgenfunction(unwrapped):
        raise PluginError(f"{hook} of {blame} yields, so its body would never run; use return")
    foreign = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and parameter.default is parameter.empty
        and (parameter.name not in HOOKS[hook] or parameter.kind is parameter.POSITIONAL_ONLY)
    ]
    if foreign:
        raise PluginError(
            f"{hook} of {blame} takes {', '.join(foreign)}; hooks are called with keyword "
            f"arguments, and {hook} may take any of: {', '.join(HOOKS[hook])}"
        )


def _resembles_hook(plugin: object, name: str) -> bool:
    """Whether a method is named like a hook; the specifications themselves are not meant."""
    method = inspect.getattr_static(plugin, name, None)
    method = getattr(method, "__func__", method)
    return (
        not name.startswith("_")
        and callable(method)
        and not hasattr(method, f"{PROJECT}_spec")
        and bool(difflib.get_close_matches(name, HOOKS, cutoff=0.8))
    )

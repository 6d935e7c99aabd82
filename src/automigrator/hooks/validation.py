"""Registers plugins, and explains why one cannot be used."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence

import pluggy

from automigrator.errors import PluginError
from automigrator.hooks.calls import Impl
from automigrator.hooks.spec import PROJECT, Hookspecs
from automigrator.printable import in_a_line
from automigrator.support.entry_points import suggestion

HOOKS: dict[str, tuple[str, ...]] = {
    name: tuple(inspect.signature(spec).parameters)[1:]
    for name, spec in vars(Hookspecs).items()
    if inspect.isfunction(spec)
}

"""Every hook and the arguments it offers."""


def registered(plugins: Sequence[tuple[str, object, bool]]) -> list[Impl]:
    """The implementations of all hooks, in the order of the plugins.

    A plugin comes with its name and whether it is a strategy. Raises PluginError for one that
    cannot be used.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Hookspecs)
    for number, (blame, plugin, _) in enumerate(plugins):
        _validate(manager, blame, plugin)
        try:
            manager.register(plugin, f"{number}:{blame}")
        except pluggy.PluginValidationError as error:
            raise PluginError(f"{blame} cannot be used: {in_a_line(str(error))}") from error
        except ValueError as error:
            raise PluginError(
                f"{blame} is equal (==) to another configured plugin; leave one out, "
                "or define its class with @dataclass(eq=False)"
            ) from error
    return [
        Impl(blame, each.function, plugin, strategy, _accepts(each.function, offered), hook)
        for blame, plugin, strategy in plugins
        for hook, offered in HOOKS.items()
        for each in getattr(manager.hook, hook).get_hookimpls()
        if each.plugin is plugin
    ]


def _accepts(function: Callable[..., object], offered: Sequence[str]) -> tuple[str, ...]:
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return tuple(offered)
    by_keyword = {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}
    return tuple(name for name in offered if name in by_keyword)


def _validate(manager: pluggy.PluginManager, blame: str, plugin: object) -> None:
    """Raise PluginError for the mistakes pluggy lets pass or explains badly."""
    if inspect.isclass(plugin):
        name = plugin.__name__
        raise PluginError(f"{name} is a class, not a plugin: pass {name}(), not {name}")
    if isinstance(plugin, str):
        raise PluginError(
            f"{plugin!r} is a string, not a plugin: plugins= takes objects with @hookimpl "
            "methods; the names of recovery strategies go into recovery="
        )
    found = {name: manager.parse_hookimpl_opts(plugin, name) for name in dir(plugin)}
    marked = {name: opts for name, opts in found.items() if opts is not None}
    for name, opts in marked.items():
        _validate_impl(blame, plugin, name, opts)
    unmarked = [name for name in found.keys() - marked.keys() if _resembles_hook(plugin, name)]
    if named := sorted(name for name in unmarked if name in HOOKS or not marked):
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
    for option in ("wrapper", "hookwrapper", "tryfirst", "trylast"):
        if opts.get(option):
            raise PluginError(
                f"{attribute} of {blame} is marked hookimpl({option}=True), which automigrator "
                "does not have: plugins are asked one after another, in the configured order; "
                "remove the option"
            )
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

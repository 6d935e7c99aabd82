from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError
from support.canaries import ROW

from automigrator.errors import HookError, PluginError
from automigrator.events.event import Event
from automigrator.failure import Decision, Failure
from automigrator.hooks.registry import Hooks
from automigrator.hooks.spec import hookimpl
from automigrator.report import TargetReport

RUN: Any = SimpleNamespace(target="app")
FAILURE = Failure("revision", "boom")
REPORT = TargetReport("app", "migrated")


class Recorder:
    def __init__(self, name: str, calls: list[str]) -> None:
        self.name = name
        self.calls = calls

    @hookimpl
    def before_migrate(self, run: Any) -> None:
        self.calls.append(self.name)

    @hookimpl
    async def on_failure(self, run: Any, failure: Failure) -> Decision | None:
        return None


def with_hook(hook: str, function: Callable[..., Any], **options: Any) -> object:
    """A plugin of its own class whose one hook is `function`."""
    kind = type("Plugin", (), {hook: staticmethod(hookimpl(**options)(function))})
    plugin: object = kind()
    return plugin


async def failing(**_: Any) -> None:
    raise OSError("no space left")


def of_the_driver(**_: Any) -> None:
    told = f"invalid input for query argument $1: {ROW!r} (an integer is required)"
    raise DBAPIError("SELECT :x", {"x": ROW}, ValueError(told)).with_traceback(None)


async def told(hooks: Hooks, event: Event) -> None:
    """Tell every listener, and return when all have been told this and what came before."""
    hooks.emit(event)
    if busy := [teller for teller in hooks._tellers.values() if not teller.done()]:
        await asyncio.wait(busy)


async def test_in_house_hooks_are_asked_before_strategies_each_in_configured_order() -> None:
    calls: list[str] = []
    a, b, c, d = (Recorder(name, calls) for name in "abcd")
    hooks = Hooks([a, b], [("restore", c), ("purge", d)])
    await hooks.before_migrate(RUN)
    assert calls == ["a", "b", "c", "d"]
    assert [impl.plugin for impl in hooks.impls("on_failure")] == [a, b, c, d]


def test_an_impl_is_blamed_by_its_entry_point_name_or_else_its_class() -> None:
    hooks = Hooks([Recorder("a", [])], [("purge", Recorder("b", []))])
    blames = [(impl.blame, impl.strategy) for impl in hooks.impls("on_failure")]
    assert blames == [("Recorder", False), ("purge", True)]


def test_a_class_is_refused_where_an_instance_is_wanted() -> None:
    with pytest.raises(PluginError, match=r"pass Recorder\(\), not Recorder"):
        Hooks([Recorder], [])


def test_a_string_among_the_plugins_is_sent_to_recovery() -> None:
    with pytest.raises(PluginError, match="recovery="):
        Hooks(["purge"], [])


def test_a_plugin_that_forgot_hookimpl_is_refused_with_the_methods_that_look_like_hooks() -> None:
    class Forgetful:
        def before_migrate(self, run: Any) -> None: ...

        def on_failures(self, run: Any) -> None: ...

        def helper(self) -> None: ...

    with pytest.raises(PluginError, match="before_migrate, on_failures without @hookimpl") as info:
        Hooks([Forgetful()], [])
    assert "helper" not in str(info.value)


def test_one_forgotten_hookimpl_among_others_is_refused_too() -> None:
    class Half(Recorder):
        def after_migrate(self, run: Any) -> None: ...

    with pytest.raises(PluginError, match="Half has after_migrate without @hookimpl"):
        Hooks([Half("a", [])], [])


@pytest.mark.parametrize("plugin", [object(), None, 3])
def test_an_object_without_hooks_is_refused(plugin: object) -> None:
    with pytest.raises(PluginError, match="has no hooks"):
        Hooks([plugin], [])


def test_a_misspelt_hook_is_refused_with_the_right_spelling() -> None:
    with pytest.raises(PluginError, match="did you mean before_migrate"):
        Hooks([with_hook("before_migration", lambda run: None)], [])


def test_an_optional_hook_of_a_later_version_is_let_pass() -> None:
    class Later(Recorder):
        @hookimpl(optionalhook=True)
        def on_snapshot(self, snapshot: Any) -> None: ...

    assert len(Hooks([Later("a", [])], []).impls("on_failure")) == 1


def test_an_argument_that_the_hook_does_not_offer_is_refused_with_those_it_does() -> None:
    def on_failure(run: Any, error: Any) -> None: ...

    with pytest.raises(PluginError, match=r"takes error; .* any of: run, failure"):
        Hooks([with_hook("on_failure", on_failure)], [])


def test_a_positional_only_argument_is_refused() -> None:
    def on_event(event: Event, /) -> None: ...

    with pytest.raises(PluginError, match="takes event; hooks are called with keyword"):
        Hooks([with_hook("on_event", on_event)], [])


def test_the_same_instance_twice_is_refused() -> None:
    recorder = Recorder("a", [])
    with pytest.raises(PluginError, match=r"the same .* object is configured twice"):
        Hooks([recorder], [("purge", recorder)])


def test_equal_plugins_are_refused_with_a_way_out() -> None:
    class Equal(Recorder):
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Equal)

        __hash__ = None  # type: ignore[assignment]  # as a dataclass has it

    with pytest.raises(PluginError, match="eq=False"):
        Hooks([Equal("a", []), Equal("b", [])], [])


@pytest.mark.parametrize("option", ["wrapper", "hookwrapper", "tryfirst", "trylast"])
def test_options_that_would_change_the_order_are_refused(option: str) -> None:
    with pytest.raises(PluginError, match=option):
        Hooks([with_hook("before_migrate", lambda run: None, **{option: True})], [])


def test_a_hook_that_yields_is_refused() -> None:
    def generator(run: Any) -> Iterator[None]:
        yield

    async def async_generator(run: Any) -> AsyncIterator[None]:
        yield

    for function in (generator, async_generator):
        with pytest.raises(PluginError, match="yields"):
            Hooks([with_hook("before_migrate", function)], [])


async def test_an_impl_gets_only_the_arguments_it_accepts() -> None:
    seen: list[Any] = []
    hooks = Hooks(
        [
            with_hook("on_failure", lambda: seen.append(())),
            with_hook("on_failure", lambda failure: seen.append(failure)),
            with_hook("on_failure", lambda run, failure=None, tries=3: seen.append(failure)),
            with_hook("on_failure", lambda *, run: seen.append(run)),
            with_hook("on_failure", lambda **everything: seen.append(sorted(everything))),
        ],
        [],
    )
    for impl in hooks.impls("on_failure"):
        await hooks.call(impl, run=RUN, failure=FAILURE)
    assert seen == [(), FAILURE, FAILURE, RUN, ["failure", "run"]]


async def test_an_async_hook_behind_a_plain_decorator_is_awaited() -> None:
    async def on_failure(failure: Failure) -> Decision:
        await asyncio.sleep(0)
        return Decision.RETRY

    @functools.wraps(on_failure)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return on_failure(*args, **kwargs)

    namespace = SimpleNamespace(on_failure=hookimpl(wrapper))
    hooks = Hooks([namespace], [])
    (impl,) = hooks.impls("on_failure")
    assert await hooks.call(impl, run=RUN, failure=FAILURE) is Decision.RETRY


async def test_a_raising_before_migrate_stops_there_and_is_blamed() -> None:
    calls: list[str] = []
    hooks = Hooks([with_hook("before_migrate", failing), Recorder("a", calls)], [])
    with pytest.raises(HookError, match="Plugin raised OSError: no space left") as info:
        await hooks.before_migrate(RUN)
    assert (info.value.blame, info.value.hook, calls) == ("Plugin", "before_migrate", [])
    assert isinstance(info.value.__cause__, OSError)


async def test_a_hooks_error_is_told_without_what_rows_hold(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plugin = with_hook("before_migrate", of_the_driver)
    with pytest.raises(HookError, match=r"\$1: \(value hidden\)") as info:
        await Hooks([plugin], []).before_migrate(RUN)
    assert ROW not in str(info.value)
    Hooks([with_hook("on_event", of_the_driver)], []).emit(Event("locked"))
    assert "(value hidden)" in caplog.text and ROW not in caplog.text


async def test_passwords_and_sql_parameters_stay_out_of_the_message() -> None:
    def before_migrate() -> None:
        raise OSError("cannot reach postgresql://me:hunter2@db/app\n[parameters: ('secret',)]")

    hooks = Hooks([with_hook("before_migrate", before_migrate)], [])
    with pytest.raises(HookError) as info:
        await hooks.before_migrate(RUN)
    assert "hunter2" not in str(info.value)
    assert "secret" not in str(info.value)


async def test_an_in_house_hook_has_a_deadline() -> None:
    hooks = Hooks([with_hook("before_migrate", _sleeping(30))], [], deadline_s=0.01)
    with pytest.raises(HookError, match=r"exceeded its deadline of 0\.01 s"):
        await hooks.before_migrate(RUN)


async def test_a_strategy_has_no_deadline() -> None:
    hooks = Hooks([], [("restore", with_hook("before_migrate", _sleeping(0.05)))], deadline_s=0.01)
    await hooks.before_migrate(RUN)


async def test_a_hook_that_swallows_its_cancellation_is_overdue_all_the_same() -> None:
    async def before_migrate() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(30)

    hooks = Hooks([with_hook("before_migrate", before_migrate)], [], deadline_s=0.01)
    with pytest.raises(HookError, match="deadline"):
        await hooks.before_migrate(RUN)


async def test_a_plugins_own_timeout_error_is_not_the_deadline() -> None:
    async def before_migrate() -> None:
        raise TimeoutError("the bucket is slow")

    hooks = Hooks([with_hook("before_migrate", before_migrate)], [])
    with pytest.raises(HookError, match="raised TimeoutError: the bucket is slow"):
        await hooks.before_migrate(RUN)


class Own(BaseException):
    """An error that is no Exception."""


ENDS = [SystemExit(3), GeneratorExit(), asyncio.CancelledError("of its own"), Own("x")]


@pytest.mark.parametrize("strategy", [False, True])
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("end", ENDS, ids=lambda end: type(end).__name__)
async def test_a_hook_that_wants_to_end_the_process_is_blamed(
    end: BaseException, asynchronous: bool, strategy: bool
) -> None:
    def plain() -> None:
        raise end

    async def awaited() -> None:
        await asyncio.sleep(0)
        raise end

    plugin = with_hook("before_migrate", awaited if asynchronous else plain)
    hooks = Hooks([], [("purge", plugin)]) if strategy else Hooks([plugin], [])
    with pytest.raises(HookError, match=f"raised {type(end).__name__}.*nothing was changed"):
        await hooks.before_migrate(RUN)


@pytest.mark.parametrize("end", ENDS, ids=lambda end: type(end).__name__)
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_listener_that_wants_to_end_the_process_changes_nothing(
    end: BaseException, asynchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def plain() -> None:
        raise end

    async def awaited() -> None:
        raise end

    plugin = with_hook("on_event", awaited if asynchronous else plain)
    await told(Hooks([plugin], []), Event("one"))
    assert f"raised {type(end).__name__}" in caplog.text


async def test_cancellation_passes_through() -> None:
    hooks = Hooks([with_hook("before_migrate", _sleeping(30))], [])
    task = asyncio.create_task(hooks.before_migrate(RUN))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("answer", [True, "retry", 0])
async def test_an_answer_that_is_no_decision_is_an_error(answer: object) -> None:
    hooks = Hooks([], [("purge", with_hook("on_failure", lambda: answer))])
    (impl,) = hooks.impls("on_failure")
    with pytest.raises(HookError, match="on_failure of purge returned a"):
        await hooks.call(impl, run=RUN, failure=FAILURE)


async def test_every_after_migrate_is_called_and_its_errors_become_notes() -> None:
    seen: list[str] = []
    hooks = Hooks(
        [
            with_hook("after_migrate", failing),
            with_hook("after_migrate", lambda report: seen.append(report.name)),
        ],
        [],
    )
    (note,) = await hooks.after_migrate(RUN, REPORT)
    assert note.startswith("after_migrate of Plugin raised OSError: no space left")
    assert seen == ["app"]


async def test_listener_errors_are_logged_once_a_plugin_and_change_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[str] = []

    def broken() -> None:
        raise ValueError("bad")

    hooks = Hooks(
        [
            with_hook("on_event", failing),
            with_hook("on_event", broken),
            with_hook("on_event", lambda event: seen.append(event.name)),
        ],
        [],
    )
    for name in ("one", "two"):
        await told(hooks, Event(name))
    assert seen == ["one", "two"]
    errors = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert len(errors) == 2


async def test_emit_tells_sync_listeners_at_once_and_async_ones_in_order_without_waiting() -> None:
    at_once: list[str] = []
    later: list[str] = []

    async def slow(event: Event) -> None:
        await asyncio.sleep(0.001)
        later.append(event.name)

    hooks = Hooks(
        [with_hook("on_event", lambda event: at_once.append(event.name)),
         with_hook("on_event", slow)],
        [],
    )  # fmt: skip
    for name in ("one", "two", "three"):
        hooks.emit(Event(name))
    assert (at_once, later) == (["one", "two", "three"], [])
    await told(hooks, Event("four"))
    assert later == ["one", "two", "three", "four"]
    await hooks.aclose()


async def test_a_hung_listener_is_cancelled_and_told_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[str] = []

    async def hung(event: Event) -> None:
        calls.append(event.name)
        await asyncio.sleep(30)

    hooks = Hooks([], [("telemetry", with_hook("on_event", hung))], deadline_s=0.01)
    for name in ("one", "two"):
        await told(hooks, Event(name))
    assert calls == ["one"]
    assert "on_event of telemetry exceeded its deadline" in caplog.text


async def test_aclose_gives_listeners_a_grace_and_leaves_no_task_behind() -> None:
    hooks = Hooks([with_hook("on_event", _sleeping(30))], [], grace_s=0.1)
    hooks.emit(Event("one"))
    await hooks.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_sync_listener_that_returns_a_coroutine_is_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hooks = Hooks([with_hook("on_event", lambda: failing())], [])
    hooks.emit(Event("one"))
    assert "declare it async def" in caplog.text


async def test_hooks_serve_one_event_loop_after_another() -> None:
    hooks = Hooks([with_hook("on_event", _sleeping(0))], [])
    for _ in range(2):
        await asyncio.to_thread(asyncio.run, told(hooks, Event("one")))


def _sleeping(seconds: float) -> Callable[..., Any]:
    async def sleep() -> None:
        await asyncio.sleep(seconds)

    return sleep

"""The names outside Alembic's documented API that automigrator relies on, all of them.

`tests/migrations/test_alembic_private.py` fails when a release changes one.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

import alembic.op
from alembic import util
from alembic.script import Script, ScriptDirectory, base
from alembic.script.revision import Revision, RevisionMap
from alembic.util import pyfiles
from alembic.util.langhelpers import ModuleClsProxy, _ModuleClsMeta
from sqlalchemy import text
from sqlalchemy.schema import ExecutableDDLElement

from automigrator.errors import MissingFunctionError
from automigrator.migrations.runs.inside import Patches, inside_env, replaced

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

_ABSENT = object()


def steps(
    script: ScriptDirectory, revision: str, heads: tuple[str, ...], *, down: bool = False
) -> list[Any]:
    """What `alembic upgrade`, or `alembic downgrade`, would run, in order.

    Raises MissingFunctionError where the file of one has not the function for that.
    """
    steps_to = script._downgrade_revs if down else script._upgrade_revs
    try:
        return list(steps_to(revision, heads))  # type: ignore[arg-type]  # takes a tuple
    except AttributeError as error:
        module, name = error.obj, "downgrade" if down else "upgrade"
        if not isinstance(module, ModuleType) or error.name != name:
            raise
        raise MissingFunctionError(
            f"{module.__file__} has no {name}(), and no revision was run",
            _NO_WAY_DOWN if down else "write upgrade() into the file; `pass` is enough for it",
            str(module.revision),
        ) from None


_NO_WAY_DOWN = (
    "write downgrade() into the file, and run the command again; or put back a copy that was made "
    "before that revision (`automigrator snapshots list` shows those that are kept)"
)


def script_of(script: ScriptDirectory, revision: str) -> Script:
    """The revision of an id, of which it is known that a file has it."""
    return script.revision_map._revision_map[revision]  # type: ignore[return-value]


def parents(script: Script) -> tuple[str, ...]:
    """What a revision comes after: its down revisions and resolved dependencies."""
    return tuple(script._all_down_revisions)


def ancestors(script: ScriptDirectory, revisions: Iterable[str]) -> set[str]:
    """These revisions, and all that they come after."""
    return _reached(script, revisions, parents)


def descendants(script: ScriptDirectory, revisions: Iterable[str]) -> set[str]:
    """These revisions, and all that come after them."""
    return _reached(script, revisions, lambda each: each._all_nextrev)


def _reached(
    script: ScriptDirectory, revisions: Iterable[str], step: Callable[[Script], Iterable[str]]
) -> set[str]:
    found: set[str] = set()
    todo = [*revisions]
    while todo:
        revision = script_of(script, todo.pop())  # a label leads to its revision
        if revision.revision not in found:
            found.add(revision.revision)
            todo += step(revision)
    return found


def version_locations(script: ScriptDirectory) -> tuple[Any, ...]:
    """The folders that revisions are read from; an env.py may replace them while it runs."""
    return tuple(script._version_locations)


class _Map(RevisionMap):
    """One of `read_by`."""

    def __init__(self, generator: Callable[[], Iterator[Revision]]) -> None:
        super().__init__(generator)
        self._given = generator


def read_by(script: ScriptDirectory, generator: Callable[[], Iterator[Revision]]) -> None:
    """Have a script directory take its revisions from `generator`."""
    script.revision_map = _Map(generator)


def is_unread(script: ScriptDirectory) -> bool:
    """Whether nothing has read it since `read_by`, nor put another reading in the place of that."""
    map_ = script.revision_map
    if type(map_) is not _Map or vars(map_).keys() != {"_generator", "_given"}:
        return False
    unchanged = type(script) is ScriptDirectory and "_load_revisions" not in vars(script)
    return unchanged and map_._generator is map_._given


def code_of_reading() -> list[dict[str, Any]]:
    """All that makes a graph of files; an env.py may put something else in its place."""
    of = (ScriptDirectory, Script, Revision, RevisionMap, base, pyfiles, util)
    return [dict(vars(each)) for each in of]


def same_place(script: Script, other: Script) -> bool:
    """Whether two files say the same about their place in the graph."""
    said = ("revision", "down_revision", "dependencies", "_orig_branch_labels")
    return all(getattr(script, each) == getattr(other, each) for each in said)


def placed(script: Script, found: Script) -> Script:
    """Give `found` the place in the graph that `script` has."""
    module, labels = found.module, set(script.branch_labels)
    vars(found).update({**vars(script), "module": module, "branch_labels": labels})
    return found


def map_of(map_: RevisionMap, twins: Mapping[str, Script]) -> RevisionMap:
    """The same graph, of other revisions."""
    found = copy.copy(map_)
    known = map_._revision_map.items()
    vars(found)["_revision_map"] = {key: each and twins[each.revision] for key, each in known}
    return found


def revisions(script: ScriptDirectory) -> list[Script]:
    """All its revisions, each once."""
    found: Any = script.revision_map._revision_map.values()
    return list({id(each): each for each in found if each is not None}.values())


def remove_operations_proxy() -> None:
    """Undo what a failed revision leaves installed in `alembic.op`."""
    proxy = getattr(alembic.op, "_proxy", None)
    if proxy is not None:
        proxy._remove_proxy()


def ensure_version_table(context: MigrationContext) -> None:
    """Create the version table, as Alembic does before the first revision."""
    context._ensure_version_table()


def load_revisions(script: ScriptDirectory) -> Any:
    """The generator behind a revision map."""
    return script._load_revisions()


def written_by(context: MigrationContext, write: Callable[[str], None]) -> None:
    """Let offline mode give each statement to `write` as online mode would send it.

    Alembic's own writes blanks for each tab. The values of bound parameters stand in the text.
    """
    impl: Any = context.impl

    def execute(
        construct: Any, execution_options: Any = None, multiparams: Any = None, params: Any = None
    ) -> None:
        if multiparams is not None or params:
            raise TypeError("SQL parameters not allowed with as_sql")
        statement = text(construct) if isinstance(construct, str) else construct
        literal = {} if isinstance(statement, ExecutableDDLElement) else {"literal_binds": True}
        write(str(statement.compile(dialect=impl.dialect, compile_kwargs=literal)))

    impl._exec = execute


def keep_version_table(context: MigrationContext) -> None:
    """Let offline SQL create no version table, as there is one; Alembic asks for its heads only."""
    vars(context._version)["create"] = lambda *_, **__: None


class _Dispatch:
    """Stands in a module of Alembic's for the proxy installed there: leads to the caller's own."""

    def __init__(self, kind: type, names: Collection[str], globals_: MutableMapping[str, Any]):
        self._kind, self._globals = kind, globals_
        self._outer = globals_.get("_proxy", _ABSENT)
        """The application's own."""
        module = sys.modules[globals_["__name__"]]
        if vars(module) is not globals_:
            raise RuntimeError(f"Alembic's functions are not in the module {module.__name__}")
        self._module, self._was = module, module.__class__
        attributes = {name: property(partial(self._attribute, name)) for name in names}
        attributes["_proxy"] = property(partial(self._attribute, "_proxy"))
        module.__class__ = type(self._was.__name__, (self._was,), attributes)
        globals_["_proxy"] = self

    def _undo(self) -> None:
        if self._outer is _ABSENT:
            del self._globals["_proxy"]
        else:
            self._globals["_proxy"] = self._outer
        self._module.__class__ = self._was

    def _own(self) -> Any:
        inside = inside_env.get()
        return inside.proxies.get(self._kind, _ABSENT) if _shares() and inside else self._outer

    def _attribute(self, name: str, module: ModuleType) -> Any:
        """The attribute of the module that the caller sees; functions of it see `self`."""
        proxy = self._own()
        if name == "_proxy":
            found = proxy
        elif _shares():
            found = getattr(proxy, name, _ABSENT)
        else:
            found = self._globals.get(name, _ABSENT)
        if found is _ABSENT:
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
        return found

    def __getattr__(self, name: str) -> Any:
        proxy = self._own()
        if proxy is _ABSENT:
            self._globals["_name_error"](name, NameError("name '_proxy' is not defined"))
        return getattr(proxy, name)


def _shares() -> bool:
    """Whether a run calls that others may run beside."""
    inside = inside_env.get()
    return inside is not None and inside.shares


@contextmanager
def _dispatching() -> Iterator[None]:
    made: dict[int, _Dispatch] = {}
    set_ = _ModuleClsMeta.__setattr__

    def dispatches(kind: type[Any]) -> list[_Dispatch]:
        names, modules = ModuleClsProxy._setups[kind]
        for globals_, _ in modules:
            if id(globals_) not in made:
                made[id(globals_)] = _Dispatch(kind, names, globals_)
        return [made[id(globals_)] for globals_, _ in modules]

    def install(proxy: ModuleClsProxy) -> None:
        inside, kind = inside_env.get(), type(proxy)
        found = dispatches(kind)
        if inside and inside.shares:
            inside.proxies[kind] = proxy
            return
        for each in found:
            each._outer = proxy
            for name in ModuleClsProxy._setups[kind][0]:
                each._globals[name] = getattr(proxy, name)

    def remove(proxy: ModuleClsProxy) -> None:
        inside, kind = inside_env.get(), type(proxy)
        if inside and inside.shares:
            inside.proxies[kind] = None
            return
        for each in dispatches(kind):
            each._outer = None
            for name in ModuleClsProxy._setups[kind][0]:
                del each._globals[name]

    def set_on_class(kind: _ModuleClsMeta, name: str, value: Any) -> None:
        inside = inside_env.get()
        if inside and inside.shares and not name.startswith("_"):
            inside.must_be_alone(f"it registers the operation {name}")
        set_(kind, name, value)

    def undo() -> None:
        for each in made.values():
            each._undo()

    with ExitStack() as stack:
        stack.callback(undo)
        for kind in list(ModuleClsProxy._setups):
            dispatches(kind)
        stack.enter_context(replaced(ModuleClsProxy, "_install_proxy", install))
        stack.enter_context(replaced(ModuleClsProxy, "_remove_proxy", remove))
        stack.enter_context(replaced(_ModuleClsMeta, "__setattr__", set_on_class))
        yield


dispatched = Patches(_dispatching).needed
"""Context manager: `alembic.op` and `alembic.context` lead each run that shares to its own."""

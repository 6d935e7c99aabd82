"""The tables that revisions create, as far as their text says so beyond doubt."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator, Mapping

from automigrator.backends.contract.examiner import Examiner, TableName
from automigrator.migrations.history import History

Functions = Mapping[str, ast.FunctionDef]


async def there_already(
    examiner: Examiner, history: History, revisions: Iterable[str], torn: Collection[str] = ()
) -> tuple[str, ...]:
    """What exists although a revision that is not applied creates it; a hint, and no verdict.

    `torn`: revisions that were seen to commit a part of themselves just now.
    """
    created = creations(history, revisions)
    if not created:
        return ()
    existing = await examiner.existing(list(created))
    return tuple(_said(".".join(filter(None, each)), created[each], torn) for each in existing)


def _said(table: str, revision: str, torn: Collection[str]) -> str:
    if revision in torn:
        return f"table {table} exists, and {revision}, which has failed in its middle, creates it"
    return (
        f"table {table} exists already, and {revision} creates it: half of {revision} may have "
        "been applied before, where each of its statements was committed by itself"
    )


def creations(history: History, revisions: Iterable[str]) -> dict[TableName, str]:
    """Which revision creates which table, unless one of them makes room for it first.

    Only what `upgrade` and the functions that it calls do whatever happens, and name literally.
    """
    created: dict[TableName, str] = {}
    cleared = ""
    for revision in revisions:
        try:
            tree = ast.parse(history.text(revision))
        except (SyntaxError, ValueError, RecursionError):
            continue
        cleared += "\n".join(_removals(tree))
        functions = {each.name: each for each in tree.body if isinstance(each, ast.FunctionDef)}
        for table in _called("upgrade", functions):
            if table[1] not in cleared:
                created.setdefault(table, revision)
    return created


def _called(name: str, functions: Functions) -> Iterator[TableName]:
    function = functions.get(name)
    if function is not None:
        rest = {other: each for other, each in functions.items() if other != name}
        yield from _created(function.body, rest)


def _created(body: list[ast.stmt], functions: Functions) -> Iterator[TableName]:
    for statement in body:
        match statement:
            case ast.With(body=inner):
                yield from _created(inner, functions)
            case ast.Expr(value=ast.Call(func=ast.Name(id=name))):
                yield from _called(name, functions)
            case ast.Expr(value=act) | ast.Assign(value=act) | ast.AnnAssign(value=act):
                if (table := _table(act)) is not None:
                    yield table
            case ast.Return() | ast.Raise():
                return


def _table(act: ast.expr | None) -> TableName | None:
    match act:
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id="op"), attr="create_table"),
            args=[ast.Constant(value=str(name)), *_],
            keywords=keywords,
        ):
            options = {keyword.arg: keyword.value for keyword in keywords}
            if None in options or "if_not_exists" in options:
                return None
            match options.get("schema"):
                case None | ast.Constant(value=None):
                    return (None, name)
                case ast.Constant(value=str(schema)):
                    return (schema, name)
    return None


def _removals(tree: ast.AST) -> Iterator[str]:
    """Text that may name a table which is dropped or renamed; `downgrade` drops what it likes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name != "downgrade":
            for inner in ast.walk(node):
                if isinstance(inner, ast.Call):
                    text = ast.unparse(inner)
                    if "drop" in text.lower() or "rename" in text.lower():
                        yield text

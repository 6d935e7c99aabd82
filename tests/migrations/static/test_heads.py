"""The heads read from the files' text are Alembic's own, or there is no answer."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from hypothesis import given, settings
from hypothesis import strategies as st

from automigrator.migrations.static.heads import Heads, files, heads_of


@dataclass
class Revision:
    id: str
    down: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    style: str = "template"
    trap: str = "none"
    folder: str = field(default="")


def literal(items: tuple[str, ...], quote: str, many: str) -> str:
    if not items:
        return "None"
    quoted = [f"{quote}{item}{quote}" for item in items]
    if len(items) == 1 and many == "bare":
        return quoted[0]
    opening, closing = ("[", "]") if many == "list" else ("(", ")")
    joint = ",\n    " if many == "lines" else ", "
    return f"{opening}{joint.join(quoted)},{closing}"


STYLES = {
    "template": "{doc}\nimport sqlalchemy as sa\nfrom alembic import op\n\n"
    "# revision identifiers, used by Alembic.\n"
    "revision: str = {id}\ndown_revision: str | None = {down}\n"
    "branch_labels = {labels}\ndepends_on = {depends_on}\n{trap}\n\ndef upgrade():\n    pass\n",
    "bare": "revision={id}\ndown_revision={down}\nbranch_labels={labels}\n"
    "depends_on={depends_on}\n{trap}\n",
    "late": "{doc}\nfrom alembic import op\n\ndef upgrade():\n    op.execute('select 1')\n\n"
    "revision = {id}  # the id\ndown_revision = {down}\nlabel = 1\nbranch_labels = {labels}\n"
    "depends_on = {depends_on}\n{trap}\n",
    "crlf": "{doc}\r\nrevision = {id}\r\ndown_revision = {down}\r\nbranch_labels = {labels}\r\n"
    "depends_on = {depends_on}\r\n{trap}\r\n",
    "joined": "revision = {id}; down_revision = {down}\nbranch_labels = {labels}\n"
    "depends_on = {depends_on}\n{trap}\n",
}
TRAPS = {
    "none": "",
    "comment": "# revision = 'zz'",
    "docstring": "'''\nrevision = 'zz'\ndown_revision = None\n'''",
    "odd quotes": '# """\n"""\nrevision = "zz"\n"""',
    "again": "revision = 'z9'",
    "conditional": "if True:\n    down_revision = None",
    "loop": "for down_revision in (None,):\n    pass",
    "computed": "revision = 'z' + 'y'",
    "chained": "a = revision = 'zx'",
    "unpacked": "revision, b = 'zw', 1",
    "star": "from os.path import *",
    "import": "from alembic import op as revision",
    "global": "def f():\n    global revision\n    revision = 'zv'\nf()",
    "globals": "globals()['down_revision'] = None",
    "local": "def f():\n    revision = 1",
    "string": "text = 'revision'",
    "continued": "c = \\\nrevision = 'zu'",
    "parenthesised": "d = dict(\nrevision='zt'\n)",
    "deleted": "del revision",
    "class": "class revision: pass",
}


def rendered(revision: Revision, quote: str, many: str) -> str:
    return STYLES[revision.style].format(
        doc=f'"""Revision ID: {revision.id}\n\nrevision = "z8"\n"""',
        id=f"{quote}{revision.id}{quote}",
        down=literal(revision.down, quote, many),
        labels=literal(revision.labels, quote, many),
        depends_on=literal(revision.depends_on, quote, many),
        trap=TRAPS[revision.trap],
    )


@contextmanager
def written(texts: dict[str, str]) -> Iterator[Path]:
    root = Path(tempfile.mkdtemp())
    try:
        for name, text in texts.items():
            path = root / "versions" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
        yield root
    finally:
        shutil.rmtree(root)


def ours(root: Path, *, recursive: bool = False) -> Heads | None:
    return heads_of(files([root / "versions"], recursive=recursive))


def alembics(root: Path, *, recursive: bool = False) -> tuple[set[str], set[str]] | None:
    """Heads and version rows; None where Alembic complains."""
    script = ScriptDirectory(str(root), recursive_version_locations=recursive)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            heads = set(script.get_heads())
            return heads, set(script.revision_map._real_heads)
        except (CommandError, RevisionError, UserWarning, LookupError, NameError, TypeError):
            return None


def agree(root: Path, *, recursive: bool = False) -> Heads | None:
    found, truth = ours(root, recursive=recursive), alembics(root, recursive=recursive)
    if found is not None:
        assert truth == (set(found.heads), set(found.rows))
    return found


@st.composite
def histories(draw: st.DrawFn, *, traps: bool) -> list[Revision]:
    revisions: list[Revision] = []
    labels = iter("uvw")
    for number in range(draw(st.integers(1, 8))):
        names = [revision.id for revision in revisions]
        some = st.lists(st.sampled_from(names), max_size=2, unique=True) if names else st.just([])
        down, depends_on = tuple(draw(some)), tuple(draw(some))
        known = [label for revision in revisions for label in revision.labels]
        if known and draw(st.booleans()):
            depends_on = (draw(st.sampled_from(known)),)
        revision = Revision(f"a{number}", down, depends_on)
        if not down and draw(st.booleans()) and (label := next(labels, "")):
            revision.labels = (label,)
        revision.style = draw(st.sampled_from(sorted(STYLES)))
        revisions.append(revision)
    if traps:
        chosen = draw(st.sampled_from(revisions))
        chosen.trap = draw(st.sampled_from(sorted(TRAPS)))
        kind = draw(st.sampled_from(["none", "missing", "loop", "twice", "odd id"]))
        other = draw(st.sampled_from(revisions))
        if kind == "missing":
            other.down = ("gone",)
        if kind == "loop":
            other.down = (draw(st.sampled_from(revisions)).id,)
        if kind == "twice":
            revisions.append(Revision(other.id, other.down))
        if kind == "odd id":
            other.id = "a-b"
    return revisions


quotes = st.sampled_from(["'", '"'])
manys = st.sampled_from(["bare", "tuple", "list", "lines"])


@pytest.mark.long
@settings(max_examples=150, deadline=None)
@given(histories(traps=True), quotes, manys)
def test_an_answer_is_always_alembics(history: list[Revision], quote: str, many: str) -> None:
    texts = {
        f"{number}_{revision.id}.py": rendered(revision, quote, many)
        for number, revision in enumerate(history)
    }
    with written(texts) as root:
        agree(root)


@settings(max_examples=50, deadline=None)
@given(histories(traps=False), quotes, manys)
def test_a_sound_history_always_has_an_answer(
    history: list[Revision], quote: str, many: str
) -> None:
    texts = {f"{revision.id}.py": rendered(revision, quote, many) for revision in history}
    with written(texts) as root:
        found = agree(root)
        # a revision may depend on an ancestor's descendant, which only a graph can refuse
        assert found is not None or alembics(root) is None


@pytest.mark.parametrize("trap", sorted(TRAPS))
@pytest.mark.parametrize("style", sorted(STYLES))
def test_no_trap_is_fallen_into(style: str, trap: str) -> None:
    text = rendered(Revision("a1", style=style, trap=trap), '"', "bare")
    with written({"a1.py": text}) as root:
        agree(root)


@pytest.mark.parametrize("trap", ["comment", "docstring", "string", "odd quotes"])
def test_text_that_only_looks_like_an_assignment_is_seen_through(trap: str) -> None:
    text = rendered(Revision("a1", style="template", trap=trap), '"', "bare")
    with written({"a1.py": text}) as root:
        found = agree(root)
        assert found is not None and found.rows == {"a1"}


def test_files_are_chosen_by_alembics_rules() -> None:
    text = rendered(Revision("a1"), '"', "bare")
    other = rendered(Revision("b1"), '"', "bare")
    texts = {
        "a1.py": text,
        ".#a1.py": text,
        "__init__.py": "",
        "__init__x.py": text,
        "notes.txt": "revision = 'n'",
        "deeper/b1.py": other,
        "deeper/__pycache__/c1.py": other,
    }
    with written(texts) as root:
        for recursive, rows in ((False, {"a1"}), (True, {"a1", "b1"})):
            found = agree(root, recursive=recursive)
            assert found is not None and found.rows == rows


def test_a_file_found_twice_through_a_link_counts_once() -> None:
    with written({"a1.py": rendered(Revision("a1"), '"', "bare")}) as root:
        (root / "versions" / "again.py").symlink_to(root / "versions" / "a1.py")
        found = ours(root)
        assert found is not None and found.rows == {"a1"}


def test_a_body_that_cannot_run_has_no_answer_where_the_syntax_must_be_asked() -> None:
    with written({"a1.py": "revision = 'a1'\ndown_revision = None\ndef upgrade(:\n"}) as root:
        assert ours(root) is None


def test_a_header_that_cannot_be_parsed_has_no_answer() -> None:
    with written({"a1.py": "revision = 'a1'\ndown_revision = (None\n"}) as root:
        assert ours(root) is None

"""Text that others wrote, made safe for a log's line, a terminal and a report."""

from __future__ import annotations

from collections.abc import Iterable

_SPACES = "\u00a0\u202f\u3000"
"""What French, say, has in a sentence, and Python does not call printable."""


def escaped(text: object) -> str:
    """The text in one line that no terminal acts on: `\\x1b` for what cannot be seen.

    Escaped are control characters, new lines, lone surrogates, and what changes or hides the
    text around it, such as U+202E; letters and spaces of every language stay. A text that was
    escaped stays as it is.
    """
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(map(_seen, plain))


def escaped_lines(text: object) -> str:
    """The same for a text whose own lines and tabs stay: each value in it is `escaped` already."""
    lines = str(text)
    if lines.replace("\n", "").replace("\t", "").isprintable():
        return lines
    return "".join(each if each in "\n\t" else _seen(each) for each in lines)


def in_a_line(text: str) -> str:
    """A text of several lines in one, with spaces between them."""
    return " ".join(map(str.strip, text.splitlines()))


def joined(lines: Iterable[object]) -> str:
    """The lines, of which each is `escaped`: no value in them begins another one."""
    return "\n".join(map(escaped, lines))


def _seen(each: str) -> str:
    kept = each.isprintable() or each in _SPACES
    return each if kept else each.encode("unicode_escape").decode("ascii")

"""Whether a revision file gives the same module each time it is run, so that once is enough.

A revision is read before env.py runs, and what it finds may depend on what env.py sets up: then it
has to be run again. Most files hold nothing at their top level but imports, constants and
functions without defaults or decorators. Such a module differs only in what its imports lead to,
and that can be looked up.
"""

from __future__ import annotations

import re
import sys
from types import ModuleType

# tokens as Python's own lexer has them; a field of an f-string may hold any quotes from 3.12 on
_STRING = (
    rb'[rRbBuU]{0,2}(?:"""(?:[^"\\]|\\.|"(?!""))*+"""'
    rb"|'''(?:[^'\\]|\\.|'(?!''))*+'''"
    rb'|"(?!"")(?:[^"\\\n]|\\.)*+"'
    rb"|'(?!'')(?:[^'\\\n]|\\.)*+')"
)
_FORMATTED = (
    rb'(?:[rR]?[fFtT]|[fFtT][rR])(?:"""(?:[^"\\{]|\\.|"(?!"")|\{\{|\{[^"\'{}\\#]*+\})*+"""'
    rb"|'''(?:[^'\\{]|\\.|'(?!'')|\{\{|\{[^\"'{}\\#]*+\})*+'''"
    rb'|"(?!"")(?:[^"\\\n{]|\\.|\{\{|\{[^"\'{}\\#\n]*+\})*+"'
    rb"|'(?!'')(?:[^'\\\n{]|\\.|\{\{|\{[^\"'{}\\#\n]*+\})*+')"
)
_END = rb"[ \t]*+(?:#[^\n]*+)?+(?:\n|\Z)"
_LITERAL = rb"(?:None|True|False|\d+|" + _STRING + rb"|\((?:[ \t]*+" + _STRING + rb",?)*+[ \t]*\))"
_HINT = rb"[\w., |\[\]]+"
_NAMES = rb"import (?:([\w., ]+)|\(([\w, \t\n]+)\))"

_LINES = (
    # a line of a function, with the texts that begin in it and go on
    rb"[ \t]++(?:[ \t.,:;=()\[\]{}<>!|&^%*/+\-@~]++|\w++(?![\"'])|"
    + _STRING
    + rb"|"
    + _FORMATTED
    + rb")*+"
    + _END,
    rb"(?:#[^\n]*+)?+\n",
    rb"(?:from [\w.]+ )?" + _NAMES + _END,
    rb"def \w+\([\w:, ]*\)(?: *->" + _HINT + rb")?:" + _END,
    rb"\w+(?::" + _HINT + rb")? *= *" + _LITERAL + _END,
    _STRING + _END,
)
"""What a file may hold at its top level, and in its functions."""

_FIXED = re.compile(rb"(?:\xef\xbb\xbf)?+(?:" + rb"|".join(_LINES) + rb")*+\Z", re.DOTALL)
_FROM = re.compile(rb"^from ([\w.]+) " + _NAMES, re.MULTILINE)
_OTHER_CODING = re.compile(rb"coding[:=][ \t]*(?!utf-?8)", re.IGNORECASE)


def is_fixed(text: bytes, module: ModuleType) -> bool:
    """Whether to run a revision's file now would give what `module` is, that was made by it."""
    text = text.replace(b"\r\n", b"\n")
    if (b"coding" in text[:400] and _OTHER_CODING.search(text, 0, 400)) or not _FIXED.match(text):
        return False
    names = vars(module)
    for origin, line, lines in _FROM.findall(text):
        source = sys.modules.get(origin.decode())
        for each in (line or lines).split(b","):
            attribute, *_, name = (each.decode().split() or [""]) * 2
            if attribute and getattr(source, attribute, None) is not names.get(name):
                return False
    modules = [each for each in names.values() if isinstance(each, ModuleType)]
    return all(sys.modules.get(each.__name__) is each for each in modules)

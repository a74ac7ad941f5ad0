"""HTML whose text is escaped wherever it comes from: only what ``element`` has made is taken as it is."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final

from highlanderd.errors import one_line

VOID: Final = frozenset({"meta"})
"""Elements without content, which HTML does not close."""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(name: str, /, *content: str | Iterable[str], **attributes: str) -> Markup:
    """Return an element; a word that Python reserves is written with ``_`` at its end.

    >>> element("p", "a < b ", element("b", "c"), class_="note")
    '<p class="note">a &lt; b <b>c</b></p>'
    """
    words = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{words}>" if name in VOID else f"<{name}{words}>{joined(*content)}</{name}>")


def joined(*content: str | Iterable[str]) -> Markup:
    """Return content one after the other. What is no HTML is escaped, and signs that are not seen are spelled out.

    >>> joined("a & b", [element("b", "c")])
    'a &amp; b<b>c</b>'
    """
    parts = (part for each in content for part in ((each,) if isinstance(each, str) else each))
    return Markup("".join(part if isinstance(part, Markup) else escape(one_line(part)) for part in parts))

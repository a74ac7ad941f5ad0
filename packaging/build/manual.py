"""Manual pages, made of the reference: highlanderd(8), highlanderctl(1), highlander.toml(5).

The pages of docs/reference hold the words, most of which come from the code in turn. Here they only change their dress:
the part of Markdown that those pages use becomes man(7).
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from highlanderd import __version__
from highlanderd.config import SECTIONS

ROOT: Final = Path(__file__).resolve().parents[2]
REFERENCE: Final = ROOT / "docs/reference"

NAMES: Final[Mapping[str, str]] = {
    "highlanderd.8": "run programs exactly once in a cluster, led through PostgreSQL",
    "highlanderctl.1": "ask and order the highlanderd of this machine",
    "highlander.toml.5": "configuration of highlanderd",
}
ROFF: Final = str.maketrans({"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"})
"""Characters that typesetters would make prettier, or take as orders."""

FILES: Final = """\
| file | holds |
|---|---|
| `/etc/highlander.toml` | the configuration, unless `-c` names another |
| `/etc/highlander/conf.d/*.toml` | programs, as packaged |
| `/run/highlander/control.sock` | the control socket |
| `/var/lib/highlander` | what outlives the daemon |
| `/usr/share/highlander/schema.json` | a JSON Schema of the configuration, for editors |
| `/usr/share/highlander/hardening` | stricter drop-ins for the unit, as examples |
"""


def pages(date: datetime) -> dict[str, str]:
    """Return every page by its name with its section, dated."""
    return {name: _page(name, BODIES[name](), date) for name in NAMES}


def _page(name: str, body: str, date: datetime) -> str:
    title, _, section = name.rpartition(".")
    others = sorted((other for other in NAMES if other != name), key=lambda other: (other[-1], other))
    also = " ,\n.BR ".join(f"{escaped(other[:-2])} ({other[-1]})" for other in others).replace(") ,", "),")
    return (
        f'.TH {title.upper()} {section} {date:%Y-%m-%d} "highlanderd {__version__}"\n'
        f".SH NAME\n{escaped(title)} \\- {escaped(NAMES[name])}\n{body}.SH SEE ALSO\n.BR {also}\n"
    )


# ------------------------------------------------------------------------------------------------------- the bodies


def _daemon() -> str:
    parts = sections("commands.md")
    return (
        ".SH SYNOPSIS\n.B highlanderd\n.RB [ \\-c\n.IR FILE ]\n"
        ".RB [ \\-\\-check | \\-\\-doctor | \\-\\-print\\-schema | \\-\\-print\\-json\\-schema ]\n"
        + ".SH DESCRIPTION\n"
        + man(parts["`highlanderd`"], {"begin daemon-options": "OPTIONS", "end daemon-options": "SIGNALS"})
        + ".SH FILES\n"
        + man(FILES)
        + ".SH EXIT STATUS\n"
        + man(parts["Exit codes"])
    )


def _client() -> str:
    parts = sections("commands.md")
    return (
        ".SH SYNOPSIS\n.B highlanderctl\n.RB [ \\-\\-socket\n.IR PATH ]\n.I COMMAND\n.RI [ ARGUMENT ...]\n"
        + ".SH DESCRIPTION\n"
        + man(parts["`highlanderctl`"], {"begin client-commands": "COMMANDS"})
        + ".SH EXIT STATUS\n"
        + man(parts["Exit codes"])
    )


def _configuration() -> str:
    parts = sections("configuration.md")
    tables = [f"`[{name}]`" for name in (*SECTIONS, "program.NAME")]
    found = [title for title in parts if title in tables]
    if found != tables:
        raise LookupError(f"docs/reference/configuration.md describes {found}, not {tables}")
    chosen = ["How values are written", "What a reload changes", *tables]
    return ".SH DESCRIPTION\n" + man(parts[""]) + "".join(f"{heading(title)}{man(parts[title])}" for title in chosen)


BODIES: Final[Mapping[str, Callable[[], str]]] = {
    "highlanderd.8": _daemon,
    "highlanderctl.1": _client,
    "highlander.toml.5": _configuration,
}


def sections(page: str) -> dict[str, str]:
    """Return the parts of a page of the reference by their headings; what stands before the first is ''."""
    text = (REFERENCE / page).read_text("utf-8")
    text = re.sub(r"^# .*\n|^This page is written by `make docs`[^\n]*(\n[^\n]+)*\n", "", text, flags=re.MULTILINE)
    before, *rest = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    return {"": before, **dict(zip(rest[0::2], rest[1::2], strict=True))}


# --------------------------------------------------------------------------------------------- Markdown into man(7)


def man(markdown: str, headings: Mapping[str, str] | None = None) -> str:
    """Return man(7) for the Markdown of the reference. ``headings``: what goes where a block begins or ends."""
    written = "".join(_part(part, headings or {}) for part in _parts(markdown))
    return re.sub(r"^\.PP\n|(?<=\n)(\.S[HS] [^\n]*\n)\.PP\n", r"\1", written)


def _parts(markdown: str) -> Iterator[str]:
    """Return paragraphs, tables and blocks of code, each as a whole."""
    for number, piece in enumerate(re.split(r"^```.*$", markdown, flags=re.MULTILINE)):
        if number % 2:
            yield "```" + piece
        else:
            yield from (part.strip() for part in re.split(r"\n\s*\n", piece) if part.strip())


def _part(part: str, headings: Mapping[str, str]) -> str:
    if part.startswith("```"):
        lines = part[3:].strip("\n").split("\n")
        return ".PP\n.RS 4\n.nf\n" + "".join(f"{escaped(line)}\n" for line in lines) + ".fi\n.RE\n"
    if part.startswith("<!--"):
        title = headings.get(part.strip("<!-> "))
        return f".SH {title}\n" if title else ""
    if part.startswith("### "):
        return f".SS {inline(part[4:])}\n"
    if part.startswith("|"):
        return "".join(_row(line) for line in part.split("\n")[2:])
    return f".PP\n{wrapped(part)}\n"


def _row(line: str) -> str:
    """The first cell is the tag; the last one tells, after what stands between them."""
    cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    between = ", ".join(cell for cell in cells[1:-1] if cell)
    return f".TP\n{inline(cells[0])}\n{wrapped(f'({between}) {cells[-1]}' if between else cells[-1])}\n"


def heading(markdown: str) -> str:
    """Return a heading of the first order; a table of the file keeps its name."""
    title = markdown.strip("`")
    return f'.SH "{escaped(title if "[" in title else title.upper())}"\n'


def inline(markdown: str) -> str:
    """Return text on one line, its code in bold. Other pages are not at hand where a manual page is read."""
    text = re.sub(r"\[([^\]]+)\]\(#[^)\s]+\)", r"\1", " ".join(markdown.split()))
    text = re.sub(r"\[([^\]]+)\]\([^)\s]+\)", r"\1 (in the documentation)", text)
    pieces = enumerate(re.split(r"`([^`]+)`", text))
    return "".join(f"\\fB{escaped(piece)}\\fP" if number % 2 else escaped(piece) for number, piece in pieces)


def wrapped(markdown: str) -> str:
    """Return text on lines of 80 at most, none of which begins with a control character."""
    lines = textwrap.wrap(inline(markdown), 78, break_long_words=False, break_on_hyphens=False)
    return "\n".join("\\&" + line if line.startswith((".", "'")) else line for line in lines)


def escaped(text: str) -> str:
    """Return text that roff shows as it is.

    >>> escaped("a -b \\\\c")
    'a \\\\-b \\\\ec'
    """
    return text.translate(ROFF)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for called, text in pages(datetime.now(UTC)).items():
        (target / called).write_text(text, "utf-8")

"""docs/changelog.md, as distributions write changelogs."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, Final

HEADING: Final = re.compile(r"^## (?P<version>\d[^\s,]*)(?:,? \(?(?P<date>\d{4}-\d\d-\d\d)\)?)?$", re.MULTILINE)


def entries(text: str, now: datetime, packager: str) -> list[dict[str, Any]]:
    """Return what nfpm makes a changelog of, newest first. One without a date is the version that is built ``now``."""
    return [
        {
            "semver": f"{system_version(version)}-1",
            "date": date.isoformat(),
            "packager": packager,
            "deb": {"urgency": "medium", "distributions": ["stable"]},
            "changes": [{"note": "\n    ".join(textwrap.wrap(note, 70))} for note in notes],
        }
        for version, date, notes in versions(text, now)
    ]


def debian(entries: list[dict[str, Any]]) -> str:
    """Return what ``entries`` has returned as deb-changelog(5) has it."""
    return "\n".join(_debian_version(entry) for entry in entries)


def _debian_version(entry: dict[str, Any]) -> str:
    about, date = entry["deb"], datetime.fromisoformat(entry["date"])
    items = "".join(f"  * {change['note']}\n" for change in entry["changes"])
    return (
        f"highlander ({entry['semver']}) {' '.join(about['distributions'])}; urgency={about['urgency']}\n\n{items}\n"
        f" -- {entry['packager']}  {format_datetime(date)}\n"
    )


def versions(text: str, now: datetime) -> Iterator[tuple[str, datetime, tuple[str, ...]]]:
    """Return version, date and paragraphs of each section, as they stand in the page. Raises ValueError without any."""
    found = list(HEADING.finditer(text))
    if not found:
        raise ValueError("the changelog names no version; write a heading such as '## 1.2.0, 2026-01-31'")
    for heading, after in zip(found, [*found[1:], None], strict=True):
        section = text[heading.end() : after.start() if after else None]
        dated = heading["date"]
        date = datetime.fromisoformat(dated).replace(tzinfo=UTC) if dated else now
        yield heading["version"], date, tuple(notes(section))


def notes(section: str) -> Iterator[str]:
    """Return each item and each paragraph of a section on one line, as plain text.

    >>> list(notes("First.\\n\\n* `a` is\\n  new.\\n* [b](c.md) too.\\n"))
    ['First.', 'a is new.', 'b too.']
    """
    for part in re.split(r"\n\s*\n|\n(?=\* )", section.strip()):
        words = " ".join(part.removeprefix("* ").split())
        yield re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", words).replace("`", "")


def system_version(version: str) -> str:
    """Return a version of ours so that dpkg and rpm order it as Python does.

    >>> system_version("1.2.0"), system_version("1.3.0rc1"), system_version("1.3.0.dev2")
    ('1.2.0', '1.3.0~rc1', '1.3.0~~dev2')
    """
    return re.sub(r"(a|b|rc)(\d+)$", r"~\1\2", version).replace(".dev", "~~dev")  # a tilde sorts before nothing

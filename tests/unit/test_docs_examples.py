"""What the pages tell people to write is what the daemon reads: configurations load, commands and metrics exist."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from highlanderd.config import load
from highlanderd.ctl.arguments import parser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ENVIRON = {"DB_PASSWORD": "secret", "PATH": "/usr/bin:/bin"}


def configurations() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for number, block in enumerate(re.findall(r"```toml\n(.*?)```", page.read_text("utf-8"), re.DOTALL), 1):
            yield f"{page.relative_to(ROOT)}:{number}", block


@pytest.mark.parametrize(("where", "block"), tuple(configurations()))
def test_every_configuration_in_the_pages_loads(where: str, block: str, tmp_path: Path) -> None:
    text = block if block.startswith("[") else f"[postgres]\n{block}"
    if "[postgres]" not in text:
        text += '\n[postgres]\ndsn = "embedded"\n'
    file = tmp_path / "highlander.toml"
    file.write_text(text, "utf-8")
    assert load(file, ENVIRON, _read).configuration, where


def _read(path: Path) -> bytes:
    return b"postgresql://highlander@db1/ops" if path.name == "dsn" else path.read_bytes()


def commands() -> set[str]:
    """Return what may stand after highlanderctl, aliases too."""
    [choices] = [action.choices for action in parser()._actions if action.dest == "command"]
    return set(choices or ())


def test_every_command_in_the_pages_exists() -> None:
    known = commands()
    for page in PAGES:
        text = re.sub(r"\s+", " ", " ".join(re.findall(r"```.*?```|`[^`]+`", page.read_text("utf-8"), re.DOTALL)))
        for found in re.finditer(r"highlanderctl (?:--socket \S+ )?(?P<command>[a-z-]+)\b(?!:)", text):
            assert found["command"] in known, f"{page.relative_to(ROOT)}: {found[0]}"


def test_every_metric_in_the_pages_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs/generate")
    families = importlib.import_module("generate").metric_families()
    known = {sample.name for family in families for sample in family.samples} | {family.name for family in families}
    for page in PAGES:
        # A path or a table's name may begin so too; the letters that follow tell a metric.
        for name in re.findall(r"\bhighlander_[a-z_]+\b", page.read_text("utf-8")):
            assert name in known or name.removesuffix("_total") in known, f"{page.relative_to(ROOT)}: {name}"


def test_a_newcomer_sees_a_whole_configuration_of_five_lines_before_any_command() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    [language, block] = re.findall(r"```(.*?)\n(.*?)```", readme, re.DOTALL)[0]
    assert (language, len(block.splitlines())) == ("toml", 5)
    assert re.findall(r"^\[(.+)\]$", block, re.MULTILINE) == ["postgres", "program.beat"]

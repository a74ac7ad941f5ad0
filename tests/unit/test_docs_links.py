"""Every link inside the documentation leads somewhere, and every page can be reached."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "tests/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"(?<!!)\[[^\]]+\]\((?P<target>[^)\s]+)\)")


def prose(path: Path) -> str:
    """Return a page without its fenced blocks, in which brackets are no links and # is no heading."""
    return re.sub(r"^\s*```.*?^\s*```", "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as Markdown renderers make them: a repeated one gets a number."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", prose(path), flags=re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        found.append(f"{words}-{found.count(words)}" if words in found else words)
    return set(found)


def links(path: Path) -> Iterator[str]:
    for link in LINK.finditer(prose(path)):
        if not re.match(r"[a-z]+:", link["target"]):
            yield link["target"]


def problem(path: Path, target: str) -> str:
    """Say why a link is dead, or nothing."""
    file, _, anchor = target.partition("#")
    place = (path.parent / file).resolve() if file else path
    if not place.is_file():
        return f"there is no {target}"
    if anchor and anchor not in anchors(place):
        return f"{place.name} has no heading #{anchor}"
    return ""


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_internal_link_is_dead(path: Path) -> None:
    assert [dead for target in links(path) if (dead := problem(path, target))] == []


def test_a_dead_link_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Here\n[a](#here) [b](#there) [c](gone.md)\n```\n# Not a heading [d](none.md)\n```\n", "utf-8")
    assert list(links(page)) == ["#here", "#there", "gone.md"]
    assert problem(page, "#here") == ""
    assert "no heading" in problem(page, "#there")
    assert "there is no" in problem(page, "gone.md")


def test_every_page_can_be_reached_from_the_front_page() -> None:
    reached, todo = {ROOT / "README.md"}, [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        for target in links(page):
            place = (page.parent / target.partition("#")[0]).resolve()
            if place.suffix == ".md" and place not in reached:
                reached.add(place)
                todo.append(place)
    assert [str(page) for page in sorted((ROOT / "docs").rglob("*.md")) if page not in reached] == []


def test_every_file_that_contributing_names_is_there() -> None:
    """The ways of changing the house name each place; a file that moved leaves nobody searching."""
    named = set(
        re.findall(r"`((?:highlanderd|tests|docs)/[\w/.*]+)`", (ROOT / "docs/contributing.md").read_text("utf-8"))
    )
    assert len(named) > 20
    assert [name for name in sorted(named) if not list(ROOT.glob(name))] == []

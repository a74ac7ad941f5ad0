"""The house as its files describe it: which package imports which, what each module is for, the linter's layers."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import tomli
from tables import first_sentence, rows

import highlanderd

PACKAGE: Final = Path(highlanderd.__file__).parent
ROOT: Final = PACKAGE.parent


def modules() -> str:
    """What each module is for, in its own first sentence."""
    lines = []
    for path in sorted(PACKAGE.rglob("*.py"), key=lambda path: (len(path.relative_to(PACKAGE).parts) > 1, path)):
        text = ast.get_docstring(ast.parse(path.read_text("utf-8")))
        if text:
            lines.append((f"`{path.relative_to(PACKAGE)}`", first_sentence(text)))
    return rows(("module", "first sentence of its docstring"), lines)


def layers() -> str:
    """Which module may import which, as the linter enforces it."""
    contracts = tomli.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    drawn = [contract for contract in contracts if contract["type"] == "layers"]
    return "\n\n".join(f"{contract['name']}:\n\n```\n" + "\n".join(contract["layers"]) + "\n```" for contract in drawn)


def picture() -> str:
    """The packages and loose modules as boxes, and their imports as arrows, as Mermaid draws them."""
    imports = _imports()
    boxes = [f"    {_identifier(room)}[{room}]" for room in sorted(imports)]
    arrows = [
        f"    {_identifier(room)} --> {_identifier(below)}"
        for room in sorted(imports)
        for below in sorted(imports[room])
        if not any(below in _reached(imports, other) for other in imports[room] - {below})
    ]
    return "\n".join(["```mermaid", "flowchart TD", *boxes, *arrows, "```"])


def _identifier(room: str) -> str:
    """Return a name that Mermaid takes: some plain words mean something to it."""
    return f"room_{room.strip('_')}"


def _imports() -> Mapping[str, set[str]]:
    """Return, for each package and loose module, which others it imports."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted(PACKAGE.rglob("*.py")):
        if path == PACKAGE / "__init__.py":
            continue
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        found[room] |= {name for name in _names(path) if name != room and _is_room(name)}
    return found


def _names(path: Path) -> Iterator[str]:
    """Return what a module imports of this package, by the first name below it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("highlanderd."))
        elif isinstance(node, ast.ImportFrom) and node.module == "highlanderd":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("highlanderd."):
            yield str(node.module).split(".")[1]


def _is_room(name: str) -> bool:
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()


def _reached(imports: Mapping[str, set[str]], room: str) -> set[str]:
    """Return everything below a room. Raises RecursionError for a circle, which the linter refuses first."""
    return set().union(*({below} | _reached(imports, below) for below in imports[room]))

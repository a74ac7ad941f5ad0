"""The examples in docstrings are what really comes out."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import highlanderd

PACKAGE = Path(highlanderd.__file__).parent
SHOWING = sorted(path for path in PACKAGE.rglob("*.py") if ">>> " in path.read_text("utf-8"))


@pytest.mark.parametrize("path", SHOWING, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_an_example_gives_what_it_says(path: Path) -> None:
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    done = doctest.testmod(importlib.import_module(name))
    assert done.attempted
    assert not done.failed

"""Cases of one test that differ little: ``make test`` tries the first, ``make test-long`` the others."""

from __future__ import annotations

from collections.abc import Iterable

import pytest


def first_of(cases: Iterable[object]) -> list[object]:
    """Return the cases for ``parametrize``."""
    first, *others = cases
    return [first, *(pytest.param(case, marks=pytest.mark.long) for case in others)]

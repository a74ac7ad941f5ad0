"""Objects without a count, in a process of its own: nothing takes it back."""

from __future__ import annotations

import sys
from typing import Final

from highlanderd.system.immortal import LEAST, make_all_immortal
from tests.support.processes import PATIENCE, apart

CAN: Final = sys.version_info >= (3, 12)
OLD: Final = ["made before"]


def _make() -> int:
    make_all_immortal()
    new = ["made later"]
    count = sys.getrefcount(new)
    another = new
    assert sys.getrefcount(another) == count + 1, "new objects are counted"
    old = [sys.getrefcount(one) for one in (OLD, _make.__code__, list.append)]
    assert [count >= LEAST for count in old] == 3 * [CAN]
    OLD.append("goes on to change")
    del OLD[:]
    return 0


def test_what_there_is_lives_for_ever_where_python_can_do_that_and_what_comes_later_does_not() -> None:
    with apart(_make) as made:
        assert made.wait(PATIENCE) == 0

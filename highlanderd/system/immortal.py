"""Make the objects of a process immortal, so that the processes that it forks go on sharing their memory.

CPython counts an object's references in the object. To look at one writes to its page, and a process that was forked
gets its own copy of that page then. Since Python 3.12 an object is not counted whose count has a certain value; None is
one (PEP 683, made for such forks). Nothing in Python sets it, so it is written here, and only where it is found to be
as expected. Elsewhere, as in Python 3.11, nothing happens.
"""

from __future__ import annotations

import ctypes
import gc
import sys

LEAST = 1 << 31  # a count from here on is one that is not kept

_Code = type((lambda: None).__code__)


def make_all_immortal() -> None:
    """Have what lives now live for ever, uncounted: modules, functions, code, and whatever they refer to.

    It takes hundredths of a second. What is made later is counted as ever.
    """
    mark = _count(None).value
    if mark < LEAST or not _counts():
        return
    found: dict[int, object] = {}
    rest: list[object] = [*gc.get_objects(), sys.modules]
    while rest:
        one = rest.pop()
        if id(one) not in found:
            found[id(one)] = one
            rest += gc.get_referents(one)
            if isinstance(one, _Code):  # the collector does not look into it
                rest += one.co_consts, one.co_names
    for one in found.values():
        _count(one).value = mark


def _count(one: object) -> ctypes.c_uint32:
    """Return the low half of the first word of an object, where 64-bit builds count."""
    return ctypes.c_uint32.from_address(id(one))


def _counts() -> bool:
    """Return whether an object's references are counted there."""
    one = object()
    before = _count(one).value
    another = one
    return _count(another).value == before + 1

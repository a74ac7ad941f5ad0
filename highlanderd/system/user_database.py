"""The user database, which may be a directory server that does not answer: no question to it waits for ever.

Each question is put in a thread of its own, and the interpreter's lock is free meanwhile. A question that has no answer
yet is not put again.
"""

from __future__ import annotations

import ctypes
import errno
import grp
import os
import pwd
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

T = TypeVar("T")

WITHIN: Final = 5.0
"""Seconds for an answer. A file is read in microseconds, a directory server that works answers within a second."""
WITHIN_AGAIN: Final = 0.1
"""Seconds for an answer while another question has none: what is on this machine is still found."""
MOST_GROUPS: Final = 65536
"""Groups of one user, as the kernel has it."""


def user_named(name: str) -> pwd.struct_passwd:
    """Return a user's entry. Raises KeyError when there is none, TimeoutError when there is no answer."""
    return _ask(pwd.getpwnam, name)


def user_numbered(uid: int, within: float = WITHIN) -> pwd.struct_passwd:
    """Return a user's entry. Raises KeyError when there is none, TimeoutError when there is no answer."""
    return _ask(pwd.getpwuid, uid, within=within)


def group_named(name: str) -> grp.struct_group:
    """Return a group's entry. Raises KeyError when there is none, TimeoutError when there is no answer."""
    return _ask(grp.getgrnam, name)


def group_numbered(gid: int) -> grp.struct_group:
    """Return a group's entry. Raises KeyError when there is none, TimeoutError when there is no answer."""
    return _ask(grp.getgrgid, gid)


def groups_of(user: str, gid: int) -> list[int]:
    """Return all groups of a user, ``gid`` among them. Raises TimeoutError when there is no answer."""
    return _ask(_groups, user, gid)


def _groups(user: str, gid: int) -> list[int]:
    """Do what os.getgrouplist does, which holds the interpreter's lock while it waits."""
    getgrouplist, count = ctypes.CDLL(None).getgrouplist, ctypes.c_int(64)
    while True:
        groups = (ctypes.c_uint * count.value)()
        if getgrouplist(os.fsencode(user), ctypes.c_uint(gid), groups, ctypes.byref(count)) >= 0:
            return list(groups[: count.value])
        if count.value > MOST_GROUPS or count.value <= len(groups):
            raise OSError(errno.EINVAL, f"the groups of {user} cannot be listed")


class _Question(threading.Thread):
    """One question, and what comes of it."""

    def __init__(self, call: Callable[..., Any], *about: object) -> None:
        super().__init__(name="user database", daemon=True)
        self._call, self._about = call, about
        self.answer: Any = None
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.answer = self._call(*self._about)
        except Exception as error:  # noqa: BLE001 - it is raised again where the question was put
            self.error = error


_unanswered: dict[tuple[object, ...], _Question] = {}


def _ask(call: Callable[..., T], *about: object, within: float = WITHIN) -> T:
    """Return the answer. Raises what ``call`` raises, and OSError when there is none."""
    for known in [known for known, former in list(_unanswered.items()) if not former.is_alive()]:
        _unanswered.pop(known, None)
    key = (call, *about)
    if key in _unanswered:
        raise _no_answer()
    question = _Question(call, *about)
    try:
        question.start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, "no thread could be started") from error
    question.join(min(within, WITHIN_AGAIN) if _unanswered else within)
    if question.is_alive():
        _unanswered[key] = question
        raise _no_answer()
    if question.error is not None:
        raise question.error
    answer: T = question.answer
    return answer


def _no_answer() -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, "the user database does not answer")

"""Resolve the user and groups that a child runs as into numbers, so that keepers never ask the user database.

The user database may be a slow directory service, and each answer may take seconds: where nothing may wait, call these
functions in a thread.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from highlanderd.config.program import ProgramConfig
from highlanderd.errors import HighlanderError
from highlanderd.system import user_database

T = TypeVar("T")


class NotAnswered(LookupError):
    """The user database has given no answer; its argument is a sentence."""


class Identity(NamedTuple):
    """The numbers that the child runs under. ``None``: the daemon's own."""

    uid: int | None
    gid: int | None
    groups: tuple[int, ...] | None
    """All supplementary groups, ``gid`` among them."""


def identity(program: ProgramConfig) -> Identity:
    """Return user, group and supplementary groups of a program as the user database has them now.

    Raises HighlanderError with a sentence where one of them does not exist, or is not found out.
    """
    if program.user is None and program.group is None and not program.supplementary_groups:
        return Identity(None, None, None)
    try:
        return _resolved(program)
    except LookupError as error:
        raise HighlanderError(f"program {program.name} cannot be started: {error.args[0]}") from None


def _resolved(program: ProgramConfig) -> Identity:
    account = None if program.user is None else find_user(program.user)
    uid = None if program.user is None else (account.pw_uid if account else int(program.user))
    gid = find_group(program.group) if program.group is not None else (account.pw_gid if account else None)
    if uid is not None and gid is None:
        raise LookupError(f"user {uid} has no entry in the user database, and so no group; set group as well")
    more = [find_group(group) for group in program.supplementary_groups]
    if account is not None and gid is not None:
        own = _answer(user_database.groups_of, account.pw_name, gid)
    else:
        own = ([] if uid is not None else os.getgroups()) + ([] if gid is None else [gid])
    wanted = Identity(uid, gid, tuple(sorted({*own, *more})))
    return Identity(None, None, None) if _present(wanted) else wanted


def _present(wanted: Identity) -> bool:
    """Return whether the daemon runs as just that already. Only root may set an identity, even the same one again."""
    here = {*os.getgroups(), os.getegid()}
    return (
        wanted.uid in (None, os.geteuid())
        and wanted.gid in (None, os.getegid())
        and {*(wanted.groups or ()), os.getegid()} == here
    )


def find_user(name: str) -> pwd.struct_passwd | None:
    """Return a user's entry by name or number; None for a number without one. Raises LookupError with a sentence."""
    try:
        if name.isdecimal():
            return _answer(user_database.user_numbered, int(name))
        return _answer(user_database.user_named, name)
    except KeyError:
        if name.isdecimal():
            return None
        raise LookupError(f'there is no user "{name}" on this machine; create it, or set another user') from None


def find_group(name: str) -> int:
    """Return a group's number by its name; a number stands for itself. Raises LookupError with a sentence."""
    if name.isdecimal():
        return int(name)
    try:
        return _answer(user_database.group_named, name).gr_gid
    except KeyError:
        raise LookupError(f'there is no group "{name}" on this machine; create it, or set another group') from None


def _answer(question: Callable[..., T], name: str | int, *more: object) -> T:
    """Return an answer. Raises KeyError when there is no such name, NotAnswered when there is no answer."""
    try:
        return question(name, *more)
    except OSError as error:
        raise NotAnswered(
            f"{error.strerror}, so that {name} is not found out; see whether 'id {name}' and 'getent group' answer"
        ) from None

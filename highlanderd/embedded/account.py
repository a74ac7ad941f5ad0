"""The account that PostgreSQL runs as: it refuses to run as root.

When the daemon is root, the owner of the server's directory runs the server. A directory that the daemon makes belongs
to the package's own account where there is one, and else to ``nobody``. The mode and the owner of what was there before
are never changed.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from highlanderd.errors import HighlanderError, enumerated
from highlanderd.system import user_database
from highlanderd.system.rights import acting

PACKAGED: Final = ("highlander", "/var/lib/highlander")
"""The account that the packages make, by name and home: a user of that name with another home is another one."""
NOBODY: Final = 65534  # the kernel's overflow id; for images whose /etc/passwd is too short to name it


@dataclass(frozen=True, slots=True)
class Account:
    """The user that PostgreSQL runs as: that of this process, or another one when this process is root."""

    uid: int
    gid: int

    @property
    def foreign(self) -> bool:
        """Whether this process is root and the account is not."""
        return os.geteuid() == 0 and self.uid != 0

    @property
    def name(self) -> str:
        """Its name, or its number when it has none."""
        try:
            return user_database.user_numbered(self.uid).pw_name
        except (KeyError, OSError):
            return str(self.uid)

    @contextlib.contextmanager
    def acting(self) -> Iterator[None]:
        """Touch files with this account's rights only. For single-threaded processes."""
        if not self.foreign:
            yield
            return
        with acting(self.uid, self.gid, ()):
            yield

    def barrier(self, path: Path) -> Path | None:
        """Return the first directory on the way to ``path`` that this account may not pass, or None."""
        with self.acting():
            for step in (*reversed(path.parents), path):
                if not os.access(step, os.X_OK, effective_ids=True):
                    return step
        return None


def account_of(uid: int) -> Account:
    """Return the account with this number and its primary group."""
    try:
        return Account(uid, user_database.user_numbered(uid).pw_gid)
    except (KeyError, OSError):
        return Account(uid, uid)


def unprivileged() -> Account:
    """Return the account for a new server: that of this process; for root the package's own, or else ``nobody``."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    for name, home in (PACKAGED, ("nobody", None)):
        with contextlib.suppress(KeyError, OSError):
            found = user_database.user_named(name)
            if home in (None, found.pw_dir):
                return Account(found.pw_uid, found.pw_gid)
    return Account(NOBODY, NOBODY)


def shared(directory: Path, users: Mapping[str, int | None]) -> str:
    """Return a warning of programs that run as the server's account; empty if none does.

    ``users`` are the users of programs by name, None for the daemon's own. Of an unprivileged daemon all are the same.
    """
    try:
        account = account_of(directory.stat().st_uid)
    except OSError:
        account = unprivileged()
    same = [name for name, uid in users.items() if uid == account.uid]
    if not account.foreign or not same:
        return ""
    return (
        f"{enumerated(same)} and the embedded PostgreSQL run as {account.name}, so that such a program can change who "
        "leads what; give it a user of its own, or chown the server's directory while the server is stopped"
    )


def refusal(directory: Path) -> str:
    """Return why ``owner_of`` would refuse the directory; empty if it would not. Creates nothing."""
    try:
        step = next(step for step in (directory, *directory.parents) if step.exists())
        account = _fit(directory, directory.stat().st_uid) if step == directory else unprivileged()
        _check_way(step, account)
    except OSError as error:
        return f"{directory} cannot be looked at: {(error.strerror or str(error)).lower()}"
    except HighlanderError as error:
        return str(error)
    return ""


def owner_of(directory: Path) -> Account:
    """Return the account that owns ``directory``, which is created when it is missing.

    Raises HighlanderError when PostgreSQL could not run as that account, or could not reach the directory as it.
    """
    try:
        owner = directory.stat().st_uid
    except FileNotFoundError:
        owner = _create(directory, unprivileged())
    account = _fit(directory, owner)
    _check_way(directory, account)
    return account


def _fit(directory: Path, owner: int) -> Account:
    """Return the owner's account. Raises HighlanderError if PostgreSQL, or this process, could not run as it."""
    if owner == 0:
        raise HighlanderError(
            f"{directory} belongs to root, and PostgreSQL refuses to run as root: name a directory that does not exist "
            f"yet, or give this one to the user that shall run it (chown nobody {directory})"
        )
    if os.geteuid() not in (0, owner):
        raise HighlanderError(
            f"{directory} belongs to {account_of(owner).name}, and highlanderd runs here as {unprivileged().name}: "
            "run it as that user, or name another directory"
        )
    return account_of(owner)


def _create(directory: Path, account: Account) -> int:
    """Make the directory with its owner in one step, so that no other daemon sees it half made."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    _check_way(directory.parent, account)
    made = tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}.")
    if account.foreign:
        os.chown(made, account.uid, account.gid, follow_symlinks=False)
    try:
        os.rename(made, directory)  # noqa: PTH104
    except OSError:
        os.rmdir(made)  # noqa: PTH106 - another daemon was faster, and already uses its own
    return directory.stat().st_uid


def _check_way(directory: Path, account: Account) -> None:
    if (barrier := account.barrier(directory)) is not None:
        raise HighlanderError(
            f"PostgreSQL would run here as {account.name}, who may not pass {barrier}: "
            "put the state directory (or embedded:DIR) where every user may pass, such as /var/lib/highlander (for "
            "`make run`: HIGHLANDER_STATE=/var/lib/highlander-quickstart make run), "
            "or run the daemon as the user that owns it"
        )

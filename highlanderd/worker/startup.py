"""The start of a daemon: the process that has checked the configuration becomes the guardian, or its first worker.

It makes the directories, takes the locks that say that a daemon lives, starts the embedded server if one is configured,
forks the first worker, and executes the guardian in its own place.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import os
import socket
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NoReturn

from highlanderd.config import Configuration, DaemonSection, Loaded
from highlanderd.config.trust import directory_problem
from highlanderd.errors import HighlanderError, lacking
from highlanderd.system import ownership
from highlanderd.worker.spare import forked_ahead, own_command

IN_THE_WAY: Final = "remove what stands there and is no directory, or name another one"
CURES: Final = {
    errno.ENOSPC: "make room on its file system",
    errno.EDQUOT: "raise the quota, or make room",
    errno.EEXIST: IN_THE_WAY,
    errno.ENOTDIR: IN_THE_WAY,
    errno.EROFS: "mount its file system writable, or name another directory",
}
"""What helps against what a directory is refused with."""
LIBRARIES: Final = ("aiohttp", "prometheus_client", "psycopg", "uvloop")
"""What a worker imports, and this process does not."""
EMBEDDED_WITHIN: Final = 60.0
"""Seconds for the embedded server to start: initdb on a slow disk, or recovery after a crash."""


def become_daemon(path: Path, loaded: Loaded, code: int | None) -> int:
    """Fork the first worker and become the guardian, which must never load what a worker loads.

    Returns in the worker. ``loaded`` is what the file ``path`` holds, and ``code`` the installed code's number from
    before the first import. Raises HighlanderError when this host or the state directory does not allow it.
    """
    configuration, daemon = loaded.configuration, loaded.configuration.daemon
    _refuse_missing()
    _refuse_living(configuration.control.socket)
    os.umask(os.umask(0o777) | 0o022)  # whatever the umask of the process that started this one
    _make("state_dir", daemon.state_dir)
    lock = _locked(daemon.state_dir)
    _make("run_dir", daemon.run_dir)
    _refuse_foreign("control.socket", configuration.control.socket.parent, shared=True)
    _mark(configuration.control.socket)
    _start_embedded(configuration)
    gc.freeze()
    channel_fd, spare = forked_ahead(code, _import_worker)
    if channel_fd is None:
        _become_guardian(lock, daemon, spare)
    from highlanderd.worker.daemon import work

    return work(path, channel_fd, loaded)


def _refuse_missing() -> None:
    """Refuse to start without a library that is not imported here: each worker would die of that."""
    for name in LIBRARIES:
        if find_spec(name) is None:
            raise HighlanderError(lacking(f"No module named '{name}'"))


def _import_worker() -> None:
    """Import what a worker needs, in the first one alone: the guardian begins meanwhile."""
    import highlanderd.worker.daemon  # noqa: F401


def _become_guardian(lock: int, daemon: DaemonSection, spare: tuple[str, ...]) -> NoReturn:
    """Execute the guardian in place of this process."""
    guardian = Path(__file__).parents[1] / "guardian" / "guardian.py"
    isolated = "-ISB" if sys.dont_write_bytecode else "-IS"
    command = [sys.executable, isolated, str(guardian), "--lock-fd", str(lock)]
    command += ["--state", str(daemon.state_dir), "--node", daemon.node, *spare, "--", *own_command()]
    os.execv(sys.executable, command)  # noqa: S606 - no shell is wanted


def _refuse_living(path: Path) -> None:
    """Refuse to start when a living daemon answers on the control socket, before anything is touched."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return
    raise HighlanderError(f"a running daemon already answers on {path}; stop it, or give this one its own run_dir")


def _mark(path: Path) -> None:
    """Take the lock that says that a daemon lives. The guardian inherits it, and needs to know nothing of it."""
    try:
        os.set_inheritable(ownership.take(str(path)), True)
    except BlockingIOError:
        raise HighlanderError(
            f"a running daemon already owns {path}; stop it, or give this one its own run_dir"
        ) from None
    except OSError:
        return  # the worker says what is wrong with the socket's directory, and leads without it


def _locked(state_dir: Path) -> int:
    """Lock the state directory for as long as the guardian lives; return the descriptor, which it inherits."""
    with _usable("state_dir", state_dir):
        lock = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise HighlanderError(
            f"another daemon already uses daemon.state_dir {state_dir}; give each daemon of a host its own"
        ) from None
    os.set_inheritable(lock, True)
    return lock


def _make(key: str, directory: Path) -> None:
    """Make one of the daemon's directories; refuse one that others may write to."""
    with _usable(key, directory):
        directory.mkdir(parents=True, exist_ok=True)
    _refuse_foreign(f"daemon.{key}", directory)


def _refuse_foreign(key: str, directory: Path, *, shared: bool = False) -> None:
    """Refuse a directory that others may write to, before anything is written there."""
    if problem := directory_problem(directory, shared=shared):
        raise HighlanderError(f"cannot use {key}: {problem}")


@contextlib.contextmanager
def _usable(key: str, directory: Path) -> Iterator[None]:
    """Turn an OSError about one of the daemon's directories into a sentence with the cure."""
    try:
        yield
    except OSError as error:
        cure = CURES.get(error.errno or 0, "create it for this user, or name another one")
        raise HighlanderError(f"cannot use daemon.{key} {directory}: {error.strerror}; {cure}") from error


def _start_embedded(configuration: Configuration) -> None:
    """Start the embedded server before this process becomes the guardian, which must not have it for a child."""
    directory = configuration.embedded_directory
    if directory is None:
        return
    from highlanderd.embedded.server import start

    print(f"embedded PostgreSQL in {directory}: for trying things out, never for production", file=sys.stderr)
    start(directory, EMBEDDED_WITHIN)

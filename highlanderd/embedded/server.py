"""``dsn = "embedded"``: a private PostgreSQL in a directory, shared by the daemons of one host that name it.

For trying things out and for a single host. The first daemon creates it; it runs for as long as any daemon uses it,
under a *steward* (``steward.py``), which is a child of none of them. It listens on a Unix socket only, in a directory
that other users cannot enter. The mode and the owner of what was there before are never changed.

    DIR/data        the database          DIR/users.lock    locked shared by every user, for its whole life
    DIR/run         the socket            DIR/steward.lock  locked by the steward
    DIR/server.log  what it says          DIR/fresh         from initdb until the ledger's creator removes it
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

from msgspec import Struct

from highlanderd.embedded import steward
from highlanderd.embedded.account import Account, account_of, owner_of
from highlanderd.embedded.installation import Installation, installed, pick, reachable
from highlanderd.errors import HighlanderError

USER: Final = "highlander"
SOCKET: Final = ".s.PGSQL.5432"
LONGEST_SOCKET: Final = 107  # bytes; what sockaddr_un holds besides its terminating zero
LOOK_EVERY: Final = 0.02  # seconds; a start takes about half a second
LONGEST_TEXT: Final = 65536  # bytes at the end of a file; the last lines of a log
LARGEST_LOG: Final = 10_000_000  # bytes; a larger log is set aside when the server is started
SETTINGS: Final = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "300",  # one for each program, for several daemons; an unused slot costs a few kilobytes
    "shared_buffers": "16MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "min_wal_size": "32MB",
    "max_wal_size": "64MB",
    "max_worker_processes": "0",
    "max_logical_replication_workers": "0",  # saves its launcher, one process
    "autovacuum_max_workers": "1",
    "jit": "off",
    "huge_pages": "off",
    "log_checkpoints": "off",
}
SETTINGS_SINCE: Final = {18: {"io_method": "sync"}}  # saves three processes


class Embedded(Struct, frozen=True):
    """A running embedded server, and the caller's use of it."""

    dsn: str
    lock_fd: int
    """Inheritable; the caller counts as a user of the server while any process has it open."""
    fresh: Path
    """Exists from initdb until the ledger's creator removes it: nothing was ever led through this server."""


def dsn_of(directory: Path) -> str:
    """Return the DSN of the server in ``directory``, whether it runs or not. Starts nothing."""
    place = quote(str(_socket_directory(Path(os.path.realpath(directory)))), safe="")
    return f"postgresql://{USER}@/postgres?host={place}&port=5432"


def hold(directory: Path) -> int:
    """Become one more user of a server that is in use; return the descriptor to keep open for as long as it is needed.

    Raises OSError when the server was never started, BlockingIOError when it is about to stop.
    """
    users = os.open(
        Path(os.path.realpath(directory)) / "users.lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    )
    try:
        fcntl.flock(users, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        os.close(users)
        raise
    return users


def start(directory: Path, timeout: float) -> Embedded:
    """Use the server in ``directory``: create it if it is not there, start it if it does not run. Blocks.

    ``timeout`` bounds it, in seconds. Raises HighlanderError with the reason and the cure. For single-threaded callers.
    """
    end = time.monotonic() + timeout
    directory = Path(os.path.realpath(directory))
    with _explained(directory):
        account = owner_of(directory)
        with account.acting():
            users = _open(directory / "users.lock")
        try:
            stopped = _until(lambda: _locked(users, fcntl.LOCK_SH), end)
            if not (stopped and _until(lambda: _serving(directory, account, end), end)):
                raise HighlanderError(_silence(directory, timeout))
        except BaseException:
            os.close(users)
            raise
    os.set_inheritable(users, True)
    return Embedded(dsn_of(directory), users, directory / "fresh")


# ------------------------------------------------------------------------------------------------------------- its life


def _serving(directory: Path, account: Account, end: float) -> bool:
    """Return whether the server answers, and start a steward when there is none: the last one may have been killed."""
    with account.acting():
        lock = _open(directory / "steward.lock")
    try:
        if _locked(lock, fcntl.LOCK_EX):
            _start_steward(directory, account, lock, end)
    finally:
        os.close(lock)  # the steward has its own copy, and so the lock
    return _answers(directory, account)


def _answers(directory: Path, account: Account) -> bool:
    """Return whether the server runs and is ready, which the eighth line of its file says."""
    try:
        with account.acting(), socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            probe.connect(str(_socket_directory(directory) / SOCKET))
            lines = _text(directory / "data/postmaster.pid").splitlines()
    except OSError:
        return False
    return len(lines) > 7 and lines[7].strip() == "ready"


def _start_steward(directory: Path, account: Account, lock: int, end: float) -> None:
    data, sockets = directory / "data", _socket_directory(directory)
    with account.acting():
        _make_private(sockets, account)
        written_by = _major_of(data)
    postgres = reachable(pick(installed(), written_by), account, directory)
    if written_by is None:
        _initialise(directory, account, postgres, lock, end)
    with account.acting():
        users, log = _open(directory / "users.lock"), _open_log(directory / "server.log")
    command = [
        sys.executable,
        "-I",
        "-S",
        steward.__file__,
        *map(str, (lock, users, account.uid, account.gid)),
        str(data),
    ]
    command += [str(postgres.program("postgres")), "-D", str(data), "-k", str(sockets), *_options(postgres.major)]
    try:
        _run(command, end, pass_fds=(lock, users), log=log)
    finally:
        os.close(users)
        os.close(log)


def _initialise(directory: Path, account: Account, postgres: Installation, lock: int, end: float) -> None:
    """Create the database under another name first: a directory ``data`` is always whole."""
    unfinished = directory / "data.unfinished"
    command = [str(postgres.program("initdb")), "-D", str(unfinished), "-U", USER, "--encoding=UTF8", "--locale=C"]
    command += ["--auth-local=trust", "--auth-host=reject", "--no-instructions"]
    with account.acting():
        shutil.rmtree(unfinished, ignore_errors=True)
        (directory / "fresh").touch()
        log = _open_log(directory / "server.log")
    try:
        # It keeps the lock, so that nobody begins anew while it still works for a daemon that was killed meanwhile.
        _run(command, end, pass_fds=(lock,), log=log, account=account if account.foreign else None)
    finally:
        os.close(log)
    with account.acting():
        unfinished.rename(directory / "data")


def _run(command: list[str], end: float, pass_fds: tuple[int, ...], log: int, account: Account | None = None) -> None:
    """Run a command that soon ends, in an environment that steers PostgreSQL nowhere. It must succeed by ``end``."""
    subprocess.run(
        command,
        check=True,
        timeout=max(0.0, end - time.monotonic()),
        pass_fds=pass_fds,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd="/",
        env={"PATH": os.defpath, "LC_ALL": "C"},
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=() if account else None,
        umask=0o077,
    )


def _options(major: int) -> list[str]:
    settings = SETTINGS | {
        name: value for since, more in SETTINGS_SINCE.items() if major >= since for name, value in more.items()
    }
    return [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]


# ------------------------------------------------------------------------------------------------------------ its files


def _socket_directory(directory: Path) -> Path:
    """Return DIR/run, or a short directory of its own when the socket's path would be longer than the kernel takes."""
    usual = directory / "run"
    if len(os.fsencode(usual / SOCKET)) <= LONGEST_SOCKET:
        return usual
    # Not tempfile's choice: every daemon has to find the same place, and each may have another TMPDIR.
    return Path("/tmp") / f"highlander-{hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]}"  # noqa: S108


def _make_private(directory: Path, account: Account) -> None:
    """Make a directory that only its owner may enter; refuse one that another user has made."""
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != account.uid or stat.S_IMODE(found.st_mode) & 0o077:
        raise HighlanderError(
            f"{directory} would hold the embedded server's socket, but it is not a directory that only {account.name} "
            "can enter: remove it"
        )


def _major_of(data: Path) -> int | None:
    file = data / "PG_VERSION"
    try:
        return int(_text(file))
    except FileNotFoundError:
        return None
    except ValueError:
        raise HighlanderError(f"{file} holds no version: restore the directory, or remove it to begin anew") from None


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)


def _text(path: Path) -> str:
    """Return the end of a regular file, at most ``LONGEST_TEXT``. The account may have put anything there."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, f"{path} is no regular file")
        file.seek(-min(LONGEST_TEXT, file.seek(0, os.SEEK_END)), os.SEEK_END)
        return file.read(LONGEST_TEXT).decode(errors="replace")


def _open_log(path: Path) -> int:
    if path.exists() and path.stat().st_size > LARGEST_LOG:
        path.rename(path.with_suffix(".log.1"))
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    return os.open(path, flags, 0o600)


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _until(fact: Callable[[], bool], end: float) -> bool:
    """Wait until ``fact`` holds; False when it does not before ``end``."""
    while not (held := fact()) and time.monotonic() < end:
        time.sleep(LOOK_EVERY)
    return held


def _silence(directory: Path, timeout: float) -> str:
    return f"the embedded PostgreSQL in {directory} did not answer within {timeout:g} s; {_last_words(directory)}"


def _last_words(directory: Path) -> str:
    """Return the end of the server's log, which has the server's own reason."""
    log = directory / "server.log"
    try:
        with account_of(directory.stat().st_uid).acting():
            lines = _text(log).splitlines()[-5:]
    except OSError:
        lines = []
    return "\n    ".join([f"the end of {log}:", *lines]) if lines else f"nothing is in {log}"


@contextlib.contextmanager
def _explained(directory: Path) -> Iterator[None]:
    """Turn an error of the operating system into a sentence for the operator."""
    what = f"the embedded PostgreSQL in {directory} cannot be started"
    try:
        yield
    except subprocess.SubprocessError as error:
        raise HighlanderError(f"{what}: {error}\n{_last_words(directory)}") from error
    except OSError as error:
        raise HighlanderError(f"{what}: {error}") from error

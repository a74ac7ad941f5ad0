"""The one doorway to what Linux offers and Python 3.11 does not wrap: boot time, timers, signals, forks.

Standard library only, and little of it: guardian and keepers use this file, so each of them pays for its imports. No
function here makes a decision of the daemon.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import struct
import sys
import time

from highlanderd.system import priority
from highlanderd.system.stdlib import signal

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Protocol

    class Source(Protocol):
        """Anything with a descriptor."""

        def fileno(self) -> int:
            """Return the descriptor."""


PTRACE_DETACH = 17
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME, PR_CAPBSET_DROP = 1, 4, 15, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
CAPABILITY_VERSION = 0x20080522
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
SFD_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK
TFD_TIMER_ABSTIME = 1
SIGINFO_SIZE = 128
NEVER = float("inf")
WAIT_AGAIN = 0.05  # seconds until what cannot be waited for is looked at
PIPE_BUF = select.PIPE_BUF
ERROR, WARNING, INFO = "<3>", "<4>", "<6>"  # sd-daemon(3)
CLONE3 = 435  # the number of the system call on every architecture
CLONE = {"x86_64": 56, "aarch64": 220}.get(os.uname().machine) if struct.calcsize("P") == 8 else None
CLONE_PARENT, CLONE_INTO_CGROUP = 0x8000, 0x200000000
CLONE_ARGS_SIZE = 88  # bytes of struct clone_args with its last member, cgroup (Linux 5.7)
EVERY_SIGNAL = frozenset(range(1, 65)) - {32, 33}  # 32 and 33 belong to the C library's threads

_libc = ctypes.CDLL(None, use_errno=True)
_python = ctypes.PyDLL(None, use_errno=True)  # whose calls keep the interpreter's lock
_syscall, _before_fork = _python.syscall, _python.PyOS_BeforeFork  # bound here: each is memory that keepers share
_after_fork_parent, _after_fork_child = _python.PyOS_AfterFork_Parent, _python.PyOS_AfterFork_Child
_libc.tee.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint)
_libc.tee.restype = ctypes.c_ssize_t
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def boottime() -> float:
    """Return CLOCK_BOOTTIME in seconds. Unlike the monotonic clock it runs on through a suspend, as leases do."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Timer:
    """One absolute time on CLOCK_BOOTTIME, as a descriptor that turns readable when it has passed."""

    __slots__ = ("_fd", "at")

    def __init__(self) -> None:
        self._fd = _checked(_libc.timerfd_create(time.CLOCK_BOOTTIME, SFD_FLAGS))
        self.at = NEVER

    def fileno(self) -> int:
        """Return the descriptor for ``poll``."""
        return self._fd

    def set(self, at: float) -> None:
        """Fire at ``at`` in CLOCK_BOOTTIME seconds, at once when that has passed; ``NEVER`` disarms."""
        self.at = at
        whole = 0 if at == NEVER else max(int(at * 1_000_000_000), 1)  # 0 would disarm
        spec = struct.pack("4l", 0, 0, *divmod(whole, 1_000_000_000))
        _checked(_libc.timerfd_settime(self._fd, TFD_TIMER_ABSTIME, spec, None))


class Signals:
    """Signals as a descriptor. They must be blocked already, or their default action comes first."""

    __slots__ = ("_fd",)

    def __init__(self, signals: Iterable[int]) -> None:
        mask = sum(1 << (number - 1) for number in signals).to_bytes(8, sys.byteorder).ljust(128, b"\0")
        self._fd = _checked(_libc.signalfd(-1, mask, SFD_FLAGS))

    def fileno(self) -> int:
        """Return the descriptor for ``poll``."""
        return self._fd

    def take(self) -> list[int]:
        """Take the signals that have come since the last time, each kind at most once. Never waits."""
        try:
            data = os.read(self._fd, 64 * SIGINFO_SIZE)
        except BlockingIOError:
            return []
        return [struct.unpack_from("=I", data, at)[0] for at in range(0, len(data), SIGINFO_SIZE)]


class Poller:
    """What a loop waits for: descriptors, and one absolute time in CLOCK_BOOTTIME seconds."""

    __slots__ = ("_fds", "_poller", "_timer")

    def __init__(self) -> None:
        self._poller, self._timer = select.poll(), Timer()
        self._fds: set[int] = set()
        self.add(self._timer)

    def add(self, source: Source | int, writable: bool = False) -> None:
        """Wait for it, or for a descriptor, to become readable, or also writable."""
        self._poller.register(source, select.POLLIN | (select.POLLOUT if writable else 0))
        self._fds.add(_descriptor(source))

    def drop(self, source: Source | int) -> None:
        """Wait for it no more. Raises KeyError if it was never added."""
        self._poller.unregister(source)
        self._fds.discard(_descriptor(source))

    @property
    def at(self) -> float:
        """When the wait ends in any case."""
        return self._timer.at

    def by(self, at: float) -> None:
        """End the wait at ``at``, unless it ends earlier already."""
        if at < self._timer.at:
            self._timer.set(at)

    def wait(self) -> set[int]:
        """Wait; return the descriptors that are ready, ends of file included, or all of them if the wait is refused."""
        try:
            return {fd for fd, _ in self._poller.poll()}
        except (
            OSError
        ):  # for want of memory, for instance: with a look at everything, a little later, nothing is missed
            time.sleep(WAIT_AGAIN)
            return set(self._fds)

    def set(self, at: float) -> None:
        """End the wait at ``at``; ``NEVER`` waits without end."""
        self._timer.set(at)


def _descriptor(source: Source | int) -> int:
    return source if isinstance(source, int) else source.fileno()


def block_signals() -> None:
    """Block every signal that can be blocked, and undo what was ignored: an ignored SIGCHLD loses exit statuses."""
    signal.pthread_sigmask(signal.SIG_BLOCK, EVERY_SIGNAL)
    default_signals()


def default_signals() -> None:
    """Set every signal to its default action. Python itself ignores SIGPIPE and SIGXFSZ, and an exec keeps that."""
    for number in EVERY_SIGNAL - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)


def ignore_signals(numbers: Iterable[int]) -> None:
    """Ignore these signals. An exec keeps that."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def unblock_signals() -> None:
    """Unblock all signals: an exec would keep the mask."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def become_subreaper() -> None:
    """From now on orphans below this process become its children. Not inherited over a fork."""
    _checked(_libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def die_with_parent() -> None:
    """Get SIGKILL when the thread that forked this process dies. A change of user clears that: call this afterwards."""
    _checked(_libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0))


def outlive_parent() -> None:
    """Undo ``die_with_parent()``."""
    _checked(_libc.prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0))


def forbid_new_privileges() -> None:
    """Let no set-user-ID program or file capability give this process, or what it executes, more than it has."""
    _checked(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def forbid_attaching() -> None:
    """Let no process without privilege trace this one, or look at its memory and descriptors. A fork inherits that.

    A change of user does so, too, unless the system was told otherwise (fs.suid_dumpable).
    """
    _checked(_libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))


def bound_capabilities(kept: Iterable[int]) -> None:
    """Give up all other capabilities; where this process has the right, what it executes gets none of them back."""
    mask = sum(1 << number for number in kept)
    for number in range(64):  # Linux has fewer
        if not mask >> number & 1:
            _libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
    header, held = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    _checked(_libc.capget(header, held))
    # Effective, permitted, inheritable: their low halves, and then their high ones.
    left = [held[word] & mask >> 32 * (word // 3) & 0xFFFFFFFF for word in range(6)]
    if left != list(held):  # else nothing is asked: a sandbox for a daemon without capabilities may refuse it
        _checked(_libc.capset(header, (ctypes.c_uint32 * 6)(*left)))


def set_name(name: str) -> None:
    """Show ``name``, cut at 15 bytes, in ``ps`` and ``top``."""
    _libc.prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def fork(run: Callable[[], int], cgroup: int | None = None, *, sibling: bool = False) -> int:
    """Fork a process that calls ``run`` and exits with its result, or with 70 if it raises. Return the pid.

    It never returns into the frames of its parent, whose clean-up would close the wrong descriptors. ``cgroup`` is the
    directory that it is born in. A ``sibling`` is a child of this process' parent. With either this process must have
    one thread. Raises OSError.
    """
    if sibling:
        pid = _clone_sibling()
    else:
        pid = os.fork() if cgroup is None else _clone(CLONE_INTO_CGROUP, signal.SIGCHLD, cgroup)
    if pid:
        return pid
    code = 70
    try:
        priority.restore_after_fork()
        code = run()
    except BaseException as error:  # noqa: BLE001 - no caller is left
        log(f"highlanderd: a process of the daemon failed: {describe(error)}")
    finally:
        os._exit(code)


def _clone(flags: int, signum: int, cgroup: int) -> int:
    """Fork as ``os.fork`` does, but into a cgroup, or a sibling.

    To move into a cgroup later waits for an RCU grace period: 10 ms.
    """
    arguments = struct.pack("@11Q", flags, 0, 0, 0, signum, 0, 0, 0, 0, 0, cgroup)
    return _forked(CLONE3, arguments, CLONE_ARGS_SIZE)


def _clone_sibling() -> int:
    """Fork a child of this process' parent. Its death sends the signal that this process' own does.

    systemd refuses ``clone3`` to a service with RestrictNamespaces=, so ``clone`` is called where its number is known.
    """
    return _clone(CLONE_PARENT, 0, 0) if CLONE is None else _forked(CLONE, CLONE_PARENT, 0, 0, 0, 0)


def _forked(*call: int | bytes) -> int:
    """Return what a system call that forks returns, to both processes. Raises OSError."""
    _before_fork()
    pid: int = _syscall(*(ctypes.c_long(one) if isinstance(one, int) else one for one in call))
    number = ctypes.get_errno()
    if pid == 0:
        _after_fork_child()
        return 0
    _after_fork_parent()
    if pid < 0:
        raise OSError(number, os.strerror(number))
    return pid


def close_all_but(*kept: int) -> None:
    """Close every descriptor that is not listed: a leaked end of a channel would hide a death."""
    low = 0
    for fd in sorted(kept):
        if low < fd:  # Python 3.11 takes the empty range before 0 for everything
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, 2**31 - 1)


class FilesAs:
    """For the length of a block this thread touches files as another user. Its process stays root, and its groups."""

    __slots__ = ("_gid", "_uid")

    def __init__(self, uid: int, gid: int) -> None:
        self._uid, self._gid = uid, gid

    def __enter__(self) -> None:
        _libc.setfsgid(self._gid)
        _libc.setfsuid(self._uid)
        if _libc.setfsuid(-1) != self._uid:  # it does not report errors, only what holds
            raise OSError(errno.EPERM, "cannot become the program's user")

    def __exit__(self, *_: object) -> None:
        _libc.setfsuid(os.geteuid())
        _libc.setfsgid(os.getegid())


def reap() -> tuple[int, int]:
    """Return pid and raw wait status of a child that has ended, or zeros. Raises ChildProcessError without any child.

    A child may have asked its parent to trace it (PTRACE_TRACEME), and then stops at each signal: that is no end. It is
    let go, with the signal.
    """
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0 or not os.WIFSTOPPED(status):
            return pid, status
        signum = os.WSTOPSIG(status)
        _libc.ptrace(PTRACE_DETACH, pid, None, 0 if signum == signal.SIGTRAP else signum)  # a trap is an exec


def ending(status: int) -> str:
    """Return a raw wait status in words."""
    code = os.waitstatus_to_exitcode(status)
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


def send(pid: int, signum: int) -> None:
    """Signal a child of this process that is not reaped yet: until then no other process can get its pid."""
    try:
        os.kill(pid, signum)
    except (ProcessLookupError, PermissionError):
        return  # it is dying; or it has become another user, and an unprivileged daemon may not signal it


def enlarge_pipe(fd: int, size: int) -> None:
    """Let a pipe hold ``size`` bytes; beyond its user's share of pipe memory it stays at the usual 64 KiB."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, size)
    except OSError:
        return


def keep_memory(size: int) -> None:
    """Have the allocator give memory back to the system in larger pieces than ``size`` only, where it can be told."""
    try:
        for what in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            _libc.mallopt(what, size)
    except AttributeError:  # another C library than GNU's
        return


def tee(source: int, target: int, size: int) -> int:
    """Copy what one pipe holds to another one, ``size`` bytes at most, and leave it where it is.

    Returns how much, 0 at the end of file. Raises BlockingIOError when the one is empty or the other full.
    """
    return _checked(_libc.tee(source, target, size, os.SPLICE_F_NONBLOCK))


def memfd(name: str, data: bytes) -> int:
    """Return a descriptor of memory that holds ``data``: for what is too large for a message."""
    fd = os.memfd_create(name)
    while data:
        data = data[os.write(fd, data) :]
    return fd


def sized_memfd(name: str, size: int) -> int:
    """Return a descriptor of memory of so many bytes, whose size no process can change. Raises OSError."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    except OSError:
        os.close(fd)
        raise
    return fd


def read_whole(fd: int) -> bytes:
    """Return all of a ``memfd``. Its offset, which other processes share, does not move. ``fd`` stays open."""
    size, data = os.fstat(fd).st_size, b""
    while len(data) < size:
        piece = os.pread(fd, size - len(data), len(data))
        if not piece:
            break
        data += piece
    return data


def on_journal(fd: int, environ: Mapping[str, str]) -> bool:
    """Return whether ``fd`` is the journal's stream: JOURNAL_STREAM must name this very descriptor."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def log(text: str, priority: str = WARNING) -> None:
    """Write a line to stderr, or drop it: guardian and keepers must not wait for a reader of logs.

    The journal gets its priority, too.
    """
    mark = priority if on_journal(2, os.environ) else ""
    poller = select.poll()
    poller.register(2, select.POLLOUT)
    if any(event & select.POLLOUT for _, event in poller.poll(0)):
        try:
            os.write(2, os.fsencode(f"{mark}{text}\n")[:PIPE_BUF])  # this much fits when a pipe is writable at all
        except OSError:
            return


def describe(error: BaseException) -> str:
    """Return what failed and where, without ``traceback``, which costs three times a keeper's memory."""
    place, where = error.__traceback__, ""
    while place is not None:
        where = f" at {place.tb_frame.f_code.co_filename}:{place.tb_lineno}"
        place = place.tb_next
    return f"{type(error).__name__}: {error}{where}"

"""The steward of an embedded PostgreSQL: runs the server while it has users, and stops it when the last has gone.

It is executed by path with ``-I -S``, in a session of its own, so that it outlives the daemon that started it. It
exchanges no messages and knows its users only by their lock: each has ``users.lock`` locked shared for as long as it
lives. The steward never stops the server while that lock is held, and never ends while the server runs.
Standard library only; nothing of the package is imported.

Arguments: LOCK_FD USERS_FD UID GID DATA COMMAND... LOCK_FD is already locked: it says that the directory has a steward.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time

NAME = "highlander-pg"  # the kernel keeps 15 bytes
TICK = 1.0  # seconds between two looks at the users' lock
FIRST_PAUSE = 0.1  # seconds before a server that died is started again; doubles
LONGEST_PAUSE = 5.0
GOOD_LIFE = 10.0  # seconds after which a server has proven that it can run
ORDERS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
STOPS = (
    (signal.SIGINT, 30.0),  # fast: clients are disconnected, a checkpoint is written
    (signal.SIGQUIT, 10.0),  # immediate: the next start recovers
    (signal.SIGKILL, 10.0),
)
POLL = 0.02  # seconds; a stop usually takes less than a tenth


def next_pause(pause: float, lived: float) -> float:
    """Return the seconds before the next start, after a server that was started ``pause`` late and lived ``lived``.

    >>> next_pause(0.0, 0.0), next_pause(0.4, 1.0), next_pause(4.0, 1.0), next_pause(5.0, 60.0)
    (0.1, 0.8, 5.0, 0.1)
    """
    return FIRST_PAUSE if lived >= GOOD_LIFE else min(max(2 * pause, FIRST_PAUSE), LONGEST_PAUSE)


def postmaster_of(data: str) -> int | None:
    """Return the pid of the server that runs in ``data``; None when there is none.

    A stale ``postmaster.pid`` may name a pid that another process has now: a server has DATA for its working directory.
    """
    try:
        with open(os.path.join(data, "postmaster.pid"), encoding="ascii") as file:  # noqa: PTH118, PTH123 - pathlib costs memory
            pid = int(file.readline())
        return pid if os.readlink(f"/proc/{pid}/cwd") == data else None  # noqa: PTH115
    except (OSError, ValueError):
        return None


class Postmaster:
    """The server in one data directory: a child of this steward, or one that a killed steward has left running."""

    def __init__(self, data: str, command: list[str]) -> None:
        self._data = data
        self._command = command
        self._child: int | None = None
        self._pause = 0.0
        self._started = 0.0
        self._start_at = 0.0

    def tend(self, now: float) -> float:
        """Start the server if it does not run and its pause is over; return the seconds until the next look."""
        if self.pid(now) is None:
            if now < self._start_at:
                return min(TICK, self._start_at - now)
            self._started = now
            self._child = self._execute()
        return TICK

    def pid(self, now: float) -> int | None:
        """Return the pid of the running server, and reap it when it has ended."""
        if self._child is not None and (status := reaped(self._child)) is not None:
            self._child = None
            self._pause = next_pause(self._pause, now - self._started)
            self._start_at = now + self._pause
            say(f"the server ended with wait status {status}")
        return self._child if self._child is not None else postmaster_of(self._data)

    def stop(self) -> None:
        """Stop the server, harder and harder; bounded to 50 seconds."""
        for signum, patience in STOPS:
            pid = self.pid(time.monotonic())
            if pid is not None:
                send(pid, signum)
                self._wait(time.monotonic() + patience)

    def _wait(self, end: float) -> None:
        while self.pid(time.monotonic()) is not None and time.monotonic() < end:
            time.sleep(POLL)

    def _execute(self) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.execv(self._command[0], self._command)  # noqa: S606 - no shell is wanted
        except OSError as error:
            say(f"{self._command[0]} cannot be executed: {error.strerror}")
        finally:
            os._exit(127)


def reaped(pid: int) -> int | None:
    """Return the wait status of a child, or None while it lives."""
    done, status = os.waitpid(pid, os.WNOHANG)
    return status if done else None


def send(pid: int, signum: signal.Signals) -> None:
    """Send a signal to a server that may have just ended."""
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return


def unused(users: int) -> bool:
    """Return whether the server has no user; if so, new users wait until this process has ended."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def say(text: str) -> None:
    """Write a line to the server's log, in its format."""
    os.write(2, f"{time.strftime('%Y-%m-%d %H:%M:%S %Z')} [{os.getpid()}] STEWARD:  {text}\n".encode())


def leave_the_starter() -> None:
    """Leave the daemon that started this process: be no child of it, and beyond its terminal's signals."""
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    os.umask(0o077)


def take_name() -> None:
    """Have ``ps`` show this process by its own name."""
    with open("/proc/self/comm", "w", encoding="ascii") as file:  # noqa: PTH123
        file.write(NAME)


def drop_privileges(uid: int, gid: int) -> None:
    """Become the account that PostgreSQL runs as, because it refuses to run as root."""
    if os.geteuid() == 0:
        os.setgroups(())
        os.setgid(gid)
        os.setuid(uid)


def main(arguments: list[str]) -> None:
    """Run the server until its last user has gone or a signal orders an end."""
    lock, users, uid, gid = (int(number) for number in arguments[:4])
    for descriptor in (lock, users):
        os.set_inheritable(descriptor, False)  # a server that held them would count as its own user
    leave_the_starter()
    take_name()
    drop_privileges(uid, gid)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as some parents leave it, no wait status would reach us
    signal.pthread_sigmask(signal.SIG_SETMASK, ORDERS)
    server = Postmaster(arguments[4], arguments[5:])
    received = None
    while not unused(users) and received not in (signal.SIGTERM, signal.SIGINT):
        until_look = server.tend(time.monotonic())
        arrived = signal.sigtimedwait(ORDERS, until_look)
        received = arrived.si_signo if arrived else None
    server.stop()
    os.close(lock)  # before the users' lock: a new user that has that one must be able to start a steward
    os.close(users)


if __name__ == "__main__":
    main(sys.argv[1:])

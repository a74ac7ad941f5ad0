"""A program that misbehaves in every way it can, as a user of its own: ``hostile_child.py DIRECTORY PORT SOCKET ...``.

Each mischief runs in a process of its own for three seconds at most, and is counted in ``DIRECTORY/tally``. What the
machine would suffer from is bounded: fifty processes, 200 MB of memory, 20 MB of output at once. Chance says which
comes next, or a file does.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import random
import resource
import signal
import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

DIRECTORY, PORT, SOCKET, *VICTIMS = sys.argv[1:]
"""Where the log and the environment file are; a metrics listener; a control socket; files of root's."""
LOG, ENV = f"{DIRECTORY}/hostile.log", f"{DIRECTORY}/env"
ORDERS = f"{DIRECTORY}/orders"
"""A directory: where it exists, nothing is done that no file in it orders."""
LASTS = 3  # seconds of one mischief
SPARED = 0.9  # share of the times in which it does to others only
LIFE = 15.0  # seconds until it ends, one way or another
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGSEGV)
libc = ctypes.CDLL(None)


def everybody() -> list[int]:
    """Return all processes, mostly without the one that plays the mischief: it would stop at once."""
    spared = {os.getpid(), os.getppid()} if random.random() < SPARED else set()
    return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if pid not in spared]


def name_of(pid: int) -> str:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm") as file:
        return file.read().strip()
    return ""


def asks_to_be_traced() -> None:
    libc.ptrace(0, 0, None, None)
    for signum in (signal.SIGUSR1, signal.SIGTRAP):
        signal.signal(signum, signal.SIG_IGN)
    for _ in range(20):
        os.kill(os.getpid(), random.choice((signal.SIGUSR1, signal.SIGTRAP, signal.SIGCHLD, signal.SIGWINCH)))


def traces_everybody() -> None:
    for pid in everybody():
        libc.ptrace(16, pid, None, None)
        libc.ptrace(17, pid, None, None)


def signals_everybody() -> None:
    mine = os.getpid()
    for pid in everybody():
        if pid not in (mine, 1):
            with contextlib.suppress(OSError):
                os.kill(pid, random.choice((*SIGNALS, signal.SIGKILL, signal.SIGSTOP)))


def kills_its_logger() -> None:
    for pid in everybody():
        if name_of(pid).startswith("log "):
            with contextlib.suppress(OSError):
                os.kill(pid, random.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1)))


def stops_its_logger() -> None:
    loggers = [pid for pid in everybody() if name_of(pid).startswith("log ")]
    for signum in (signal.SIGSTOP, signal.SIGCONT):
        for pid in loggers:
            with contextlib.suppress(OSError):
                os.kill(pid, signum)
        time.sleep(1)


def forks() -> None:
    resource.setrlimit(resource.RLIMIT_NPROC, (50, 50))
    while True:
        try:
            if os.fork() == 0:
                signal.alarm(LASTS)
                os.setsid()
        except OSError:
            time.sleep(0.02)


def leaves_zombies() -> None:
    for _ in range(300):
        if os.fork() == 0:
            os._exit(random.randrange(256))
    time.sleep(1)


def escapes() -> None:
    for _ in range(10):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(LASTS)
            os._exit(0)


def floods_without_a_line() -> None:
    for _ in range(20):
        os.write(random.choice((1, 2)), bytes(1 << 20))


def floods_with_lines() -> None:
    for _ in range(20):
        os.write(1, b"\n" * 100_000 + b"\x1b[2J\r%s%n\xff\n" * 10_000)


def plays_with_its_pipe() -> None:
    for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY):
        with contextlib.suppress(OSError):
            fd = os.open("/proc/self/fd/1", flags | os.O_NONBLOCK)
            fcntl.fcntl(fd, 1031, 4096)
            for _ in range(50):
                with contextlib.suppress(OSError):
                    os.write(fd, random.randbytes(5000))
                    os.read(fd, 3000)
    os.close(1)
    os.close(2)


def swaps_links() -> None:
    for _ in range(200):
        for path in (LOG, ENV, f"{LOG}.1"):
            with contextlib.suppress(OSError):
                os.unlink(path)
            with contextlib.suppress(OSError):
                random.choice((os.symlink, os.link))(random.choice([*VICTIMS, "/dev/zero", DIRECTORY]), path)
            os.write(1, b"through the link\n")


def puts_other_things_there() -> None:
    for path in (LOG, ENV):
        with contextlib.suppress(OSError):
            os.unlink(path)
        with contextlib.suppress(OSError):
            random.choice((os.mkfifo, os.mkdir))(path)
    time.sleep(0.5)
    for path in (LOG, ENV):
        for remove in (os.unlink, os.rmdir):
            with contextlib.suppress(OSError):
                remove(path)


def writes_an_environment() -> None:
    with contextlib.suppress(OSError), open(ENV, "wb") as file:
        file.write(
            random.choice((b"A=1\nB=\xff\n", b"=\n", b"A" * 100_000, b"\xef\xbb\xbfPATH=/tmp\n", b"LD_PRELOAD=/x\n"))
        )


def stops_itself() -> None:
    above = os.getppid()
    os.kill(above, signal.SIGSTOP)
    time.sleep(1)
    os.kill(above, signal.SIGCONT)


def hammers_the_listeners() -> None:
    end = time.monotonic() + LASTS - 1
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(PORT)), 1) as client:
            client.sendall(random.choice((b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 4, random.randbytes(200))))
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.connect(SOCKET)


def lies_in_proc() -> None:
    libc.prctl(15, random.choice((b") Z 1 (", b"keep beat", b"log beat", b"\n\n", b"\xff\xfe")), 0, 0, 0)
    for file, text in (("oom_score_adj", "1000"), ("comm", ") 0 0 (\n"), ("coredump_filter", "ff")):
        with contextlib.suppress(OSError), open(f"/proc/self/{file}", "w") as proc:
            proc.write(text)
    time.sleep(1)


def looks_into_everybody() -> None:
    for pid in everybody():
        for file in ("environ", "mem", "fd/1", "fd/3", "fd/4", "root", "cwd"):
            with contextlib.suppress(OSError):
                fd = os.open(f"/proc/{pid}/{file}", os.O_RDWR | os.O_NONBLOCK)
                os.write(fd, b"hello\n")


def fills_its_disk() -> None:
    with contextlib.suppress(OSError), open(f"{DIRECTORY}/fill", "wb") as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
            file.flush()
    os.write(1, b"no room for this\n" * 1000)
    time.sleep(1)
    os.unlink(f"{DIRECTORY}/fill")


def changes_limits() -> None:
    for pid in (0, os.getppid(), 1):
        for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU, resource.RLIMIT_AS):
            with contextlib.suppress(OSError, ValueError):
                resource.prlimit(pid, limit, (3, 3))


def eats_memory() -> None:
    eaten = bytearray(200 << 20)
    for at in range(0, len(eaten), 4096):
        eaten[at] = 1


def enters_cgroups() -> None:
    for directory, _, _ in os.walk("/sys/fs/cgroup"):
        with contextlib.suppress(OSError), open(f"{directory}/cgroup.procs", "w") as file:
            file.write(str(os.getpid()))


def is_nice_to_nobody() -> None:
    with contextlib.suppress(OSError):
        os.nice(-20)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        pass


MISCHIEF: tuple[Callable[[], None], ...] = (
    asks_to_be_traced, traces_everybody, signals_everybody, kills_its_logger, stops_its_logger, forks, leaves_zombies,
    escapes, floods_without_a_line, floods_with_lines, plays_with_its_pipe, swaps_links, puts_other_things_there,
    writes_an_environment, stops_itself, hammers_the_listeners, lies_in_proc, looks_into_everybody, fills_its_disk,
    changes_limits, eats_memory, enters_cgroups, is_nice_to_nobody,
)  # fmt: skip


def play(mischief: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):
        fd = os.open(f"{DIRECTORY}/tally", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(fd, f"{mischief.__name__}\n".encode())
        os.close(fd)
    with contextlib.suppress(OSError):
        if os.fork() == 0:
            signal.alarm(LASTS)
            with contextlib.suppress(BaseException):
                mischief()
            os._exit(0)


def obey() -> None:
    """Play what is ordered, by the names of files."""
    while True:
        for order in os.listdir(ORDERS):
            os.unlink(f"{ORDERS}/{order}")
            name = order.partition(".")[0]
            if name == "ends":
                os._exit(random.randrange(256))
            play(next(one for one in MISCHIEF if one.__name__ == name))
        time.sleep(0.02)


def main() -> None:
    if os.path.isdir(ORDERS):
        obey()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, random.choice((signal.SIG_IGN, signal.SIG_DFL)))
    asks_to_be_traced()
    end = time.monotonic() + LIFE
    while time.monotonic() < end:
        play(random.choice(MISCHIEF))
        time.sleep(random.random() / 2)
    random.choice((lambda: os.abort(), lambda: os._exit(3), lambda: os.kill(os.getpid(), signal.SIGKILL)))()


main()

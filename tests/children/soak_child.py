"""A program of the soak: ``soak_child.py KIND [PORT]``. It keeps the journal, and misbehaves as its kind does.

While the file SOAK_QUIET exists it behaves. Everything that it does to the machine is bounded: a burst of output is
50 KB, and a tree of processes ends by itself within 20 s.
"""

from __future__ import annotations

import os
import random
import resource
import select
import signal
import socket
import sys
import time

sys.path.insert(0, os.path.dirname(__file__))  # noqa: PTH120 - pathlib takes a while to import

from journal_child import begin, tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

KIND, *MORE = sys.argv[1:]
QUIET = os.environ["SOAK_QUIET"]
BEAT = 1.0  # seconds
RARELY = 1 / 60  # chance of one beat
OFTEN = 1 / 15
BURST = 50_000  # bytes
STREAMS = (1, 2)


def crashes() -> None:
    if random.random() < RARELY:
        how = random.choice((signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL, 0))
        if how:
            os.kill(os.getpid(), how)
        os._exit(random.choice((1, 7, 255)))


def spews() -> None:
    if random.random() < OFTEN:
        line = random.choice((b"a line\n", random.randbytes(200) + b"\n", b"x" * 20_000, b"\xff\xfe\0\n"))
        burst = line * (BURST // len(line))
        while burst:
            burst = burst[os.write(random.choice(STREAMS), burst) :]


def forks() -> None:
    if random.random() < OFTEN:
        for _ in range(3):
            if os.fork() == 0:
                _descend()
    while True:  # the dead are collected, mostly
        try:
            if random.random() < OFTEN or os.waitpid(-1, os.WNOHANG) == (0, 0):
                return
        except ChildProcessError:
            return


def _descend() -> None:
    """Be one of the tree: in a session of its own, or deaf, or the parent of one more, and gone soon."""
    signal.signal(signal.SIGTERM, random.choice((signal.SIG_DFL, signal.SIG_IGN)))
    if random.random() < 0.5:
        os.setsid()
    if os.fork() and random.random() < 0.5:
        os._exit(0)
    time.sleep(random.uniform(0, 20))
    os._exit(0)


def exits() -> None:
    if random.random() < RARELY:
        os._exit(0)


def say(words: bytes) -> None:
    where = os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.sendto(words, where)


def watched() -> Callable[[], None]:
    """Say that we are well, and hang for ever one day."""

    def live() -> None:
        say(b"READY=1\nWATCHDOG=1")
        if not quiet() and random.random() < RARELY:
            hang()
        _rest()

    return live


def _rest() -> None:
    time.sleep(BEAT)


def hang() -> None:
    signal.signal(signal.SIGTERM, random.choice((signal.SIG_DFL, signal.SIG_IGN)))
    while True:
        time.sleep(1000)


def answering() -> Callable[[], None]:
    """Answer whoever asks, until the day on which nobody gets an answer any more."""
    door = socket.create_server(("127.0.0.1", int(MORE[0])), backlog=16)

    def answer() -> None:
        until = time.monotonic() + BEAT
        while (left := until - time.monotonic()) > 0:
            if select.select([door], [], [], left)[0]:
                client, _ = door.accept()
                with client:
                    client.settimeout(1)
                    try:
                        client.recv(4096)
                        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
                    except OSError:
                        continue
        if not quiet() and random.random() < RARELY:
            hang()

    return answer


def accepting() -> Callable[[], None]:
    """Accept whoever comes, until the day on which the door is shut, and we stay."""
    door = socket.create_server(("127.0.0.1", int(MORE[0])), backlog=16)

    def accept() -> None:
        until = time.monotonic() + BEAT
        while (left := until - time.monotonic()) > 0:
            if select.select([door], [], [], left)[0]:
                door.accept()[0].close()
        if not quiet() and random.random() < RARELY:
            door.close()
            hang()

    return accept


def asked() -> Callable[[], None]:
    """Be well, until the day on which the file says that we are not, and we stay."""
    unwell = f"{QUIET}.{os.environ['HIGHLANDER_PROGRAM']}"
    if os.path.exists(unwell):  # noqa: PTH110
        os.unlink(unwell)  # noqa: PTH108

    def live() -> None:
        _rest()
        if not quiet() and random.random() < RARELY:
            with open(unwell, "w"):  # noqa: PTH123
                hang()

    return live


def quiet() -> bool:
    return os.path.exists(QUIET)  # noqa: PTH110


MISCHIEF: dict[str, Callable[[], None]] = {
    "crash": crashes,
    "spew": spews,
    "fork": forks,
    "deaf": exits,
    "finish": exits,
}
"""What a kind does each second while it need not be quiet."""


LIVES: dict[str, Callable[[], Callable[[], None]]] = {
    "watched": watched,
    "web": answering,
    "door": accepting,
    "asked": asked,
}
"""What a kind begins with that is asked how it is; it returns what that does each second."""


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # without a traceback: those are the daemons' own
    begin(*(["stubborn"] if KIND == "deaf" else []))
    live = LIVES[KIND]() if KIND in LIVES else _rest
    while True:
        live()
        tell("alive")
        if not quiet():
            MISCHIEF.get(KIND, lambda: None)()


main()

"""A real guardian with a test worker, and facts about processes to wait for."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from highlanderd.guardian.deadline_notes import HEAD, PLACE
from tests.support.deaths import proc_file, stand_still
from tests.support.wait import wait_for

ROOT = Path(__file__).resolve().parents[2]
GUARDIAN = ROOT / "highlanderd" / "guardian" / "guardian.py"
WORKER = ROOT / "tests" / "children" / "process_worker.py"
PATIENCE = 60.0
"""Seconds after which a fact that was not told fails the test; on an idle machine all are told in milliseconds."""
LEASE = 10.0
"""Seconds. Who is silent for 3/10 of it is taken for frozen: on a busy machine nobody shall be who is not."""

PTRACE_SEIZE = 0x4206

Fact = dict[str, Any]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def state(pid: int) -> str:
    """Tell a process' state letter; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def name_of(pid: int) -> str:
    """Return the name that ``ps`` shows of a process; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def gone(pid: int) -> bool:
    """Whether nothing of the process runs any more."""
    return state(pid) in ("", "Z", "X")


def children(pid: int) -> list[int]:
    """List a process' children, those of all its threads, zombies excluded."""
    try:
        threads = [*Path(f"/proc/{pid}/task").iterdir()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    words = [word for thread in threads for word in proc_file(f"{thread}/children").split()]
    return [int(word) for word in words if not gone(int(word))]


def fork_servers(guardian: int) -> list[int]:
    """List a guardian's fork servers: one, or none for a moment."""
    return [pid for pid in children(guardian) if name_of(pid) == "fork server"]


def waiting_fork(guardian: int) -> int:
    """Wait until a guardian has a process that was forked ahead, and return its pid."""
    return wait_for(
        lambda: next((pid for pid in children(guardian) if name_of(pid) == "forked"), 0), what="one is forked ahead"
    )


@contextmanager
def undying(pid: int) -> Iterator[None]:
    """Have a process stay below its parent however it is killed, as one in uninterruptible sleep does.

    It is traced: a zombie that its tracer has not taken note of is kept from its parent.
    """
    if _libc.ptrace(PTRACE_SEIZE, pid, None, None) < 0:
        pytest.skip(f"tracing is not allowed here: {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@contextmanager
def apart(function: Callable[..., int], *numbers: int, fds: tuple[int, ...] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """Run a function of a module in a process of its own, and leave nothing of it nor of what it starts in its session.

    It is called with the numbers and the descriptors, and the process exits with what it returns. A fork of the tests'
    own process would not do: it has threads, and a lock that one of them holds is held for ever in the fork.
    """
    script = (
        f"import sys; from {function.__module__} import {function.__name__} as function; "
        "sys.exit(function(*map(int, sys.argv[1:])))"
    )
    command = [sys.executable, "-c", script, *map(str, numbers + fds)]
    process = subprocess.Popen(command, cwd=ROOT, pass_fds=fds, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)


class Node:
    """A guardian that was started by path, and whichever worker it has at the moment."""

    def __init__(self, home: Path, loop: str = "uvloop", lease: float = LEASE, socket_name: str = "test.sock") -> None:
        self.home, self._lease, self._path = home, lease, home / socket_name
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._listener.listen(8)
        self._listener.settimeout(PATIENCE)
        self.worker_argv = [sys.executable, str(WORKER), loop, str(self._path), str(lease)]
        self.errors = home / "stderr"
        self.facts: list[Fact] = []
        self._socket: socket.socket | None = None
        self._seen = b""
        self._met: set[int] = set()
        self.epoch = 0

    def start(self, **options: Any) -> None:
        """Start the guardian as the daemon's own entry does, with the lock's descriptor open."""
        lock = os.open(self.home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        argv = [sys.executable, "-I", "-S", str(GUARDIAN), "--lock-fd", str(lock), "--state", str(self.home)]
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [*argv, "--node", "one", "--", *self.worker_argv], pass_fds=[lock], stderr=errors, **options
            )
        os.close(lock)
        self.pid = self.process.pid

    def meet(self) -> Fact:
        """Wait for the next worker to connect and to have been greeted; gives the greeting."""
        if self._socket is not None:
            self._socket.close()
        self._socket, _ = self._listener.accept()
        self._socket.settimeout(PATIENCE)
        self.facts, self._seen = [], b""
        self.meeting = self.expect("greeting")
        self._met.add(self.meeting["worker"])
        return self.meeting

    def tell(self, command: str, **more: Any) -> None:
        """Give the worker a command."""
        assert self._socket is not None
        self._socket.sendall(json.dumps({"command": command, **more}).encode() + b"\n")

    def spawn(self, *argv: str, **more: Any) -> int:
        """Have a child ordered; gives its epoch."""
        self.epoch = more.pop("epoch", self.epoch + 1)
        self.tell("spawn", epoch=self.epoch, argv=argv, **more)
        return self.epoch

    def shell(self, script: str, **more: Any) -> int:
        """Have a shell script ordered as child; gives its epoch."""
        return self.spawn("sh", "-c", script, **more)

    def expect(self, fact: str, **wanted: Any) -> Fact:
        """Wait for a fact from the worker and take it; those before it stay for later."""
        return self.expect_any(fact, **wanted)

    def expect_any(self, *facts: str, **wanted: Any) -> Fact:
        """Wait for one of these facts and take it."""
        while True:
            for one in self.facts:
                if one["fact"] in facts and all(one.get(name) == value for name, value in wanted.items()):
                    self.facts.remove(one)
                    return one
            self._read(f"{facts} {wanted}")

    def noted(self, memo: str) -> bool:
        """Return whether a keeper has taken in a deadline with this memo: it is noted where the guardian reads it."""
        data = self._notes().read_bytes()
        found = ((place + HEAD.size, HEAD.unpack_from(data, place)[2]) for place in range(0, len(data), PLACE))
        return any(data[start : start + length] == memo.encode() for start, length in found)

    def _notes(self) -> Path:
        """Return the memory of the deadlines, which the guardian has open all the time."""
        for descriptor in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # others come and go
                if descriptor.readlink().name.startswith("memfd:deadlines"):
                    return descriptor
        raise AssertionError("the guardian has no memory of deadlines")

    def line(self, epoch: int, pipe: str = "stdout") -> str:
        """Wait for a whole line of a child's output and take it; what came together with it stays for later."""
        text = ""
        while "\n" not in text:
            text += self.expect("output", epoch=epoch, name=pipe)["text"]
        line, end, rest = text.partition("\n")
        if rest:
            self.facts.insert(0, {"fact": "output", "epoch": epoch, "name": pipe, "text": rest})
        return line + end

    def _read(self, what: str) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(65536)
        except TimeoutError:
            data = b""
        if not data:
            pytest.fail(f"never told: {what}; told: {self.facts}; stderr: {self.errors.read_text()}")
        *lines, self._seen = (self._seen + data).split(b"\n")
        self.facts += [json.loads(line) for line in lines]

    @property
    def worker(self) -> int:
        """The present worker's pid, as the kernel knows it."""
        return wait_for(lambda: next(iter(self.workers()), 0), what="there is a worker")

    def workers(self) -> list[int]:
        """List the pids of living workers; more than one must never be seen."""
        return self._named("process_worker.py")

    def break_worker(self) -> None:
        """See to it that no later worker ever gets ready."""
        self._listener.close()
        self._path.unlink()

    def crash(self) -> None:
        """SIGKILL guardian, worker and keepers at once: none sees another one die."""
        pids = [self.pid, *self.workers(), *self.keepers()]
        stand_still(*pids)
        for pid in pids:
            with suppress(ProcessLookupError):  # it has ended by itself
                os.kill(pid, signal.SIGKILL)
        self.process.wait(PATIENCE)

    def keepers(self) -> list[int]:
        """List the pids of the living keepers."""
        return [pid for pid in self._named("guardian.py") if name_of(pid).startswith("keep")]

    def loggers(self) -> list[int]:
        """List the pids of the living loggers."""
        return [pid for pid in self._named("guardian.py") if name_of(pid).startswith("log")]

    def keeper(self) -> int:
        """Return the pid of the only keeper."""
        (keeper,) = self.keepers()
        return keeper

    def _named(self, script: str) -> list[int]:
        found = []
        for pid in children(self.pid):
            with suppress(OSError):
                if script in Path(f"/proc/{pid}/cmdline").read_text().split("\0--\0")[0]:
                    found.append(pid)
        return found

    def _is_ours(self, pid: int) -> bool:
        """Whether a worker that was met still runs: it may outlive its guardian, and its pid may be another's."""
        try:
            return str(self.home) in Path(f"/proc/{pid}/cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False

    def close(self) -> None:
        """End everything that this node has started, and see that it is gone."""
        pids = [self.pid, *_tree(self.pid), *(pid for pid in self._met if self._is_ours(pid)), *self._workers()]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(PATIENCE)
        wait_for(lambda: all(gone(pid) for pid in pids), what=f"all of {pids} are gone")
        if self._socket is not None:
            self._socket.close()
        self._listener.close()
        self._remove_cgroups()

    def _workers(self) -> list[int]:
        """Every worker that serves this node's socket, also one that was never met: it may be frozen by a test."""
        mine = os.fsencode(self._path)
        return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if mine in _words(entry)]

    def _remove_cgroups(self) -> None:
        """Remove what the next daemon with this state directory would have: here there is no next one."""
        instance, parent = ((self.home / "instance").read_text() + "\n").split("\n")[:2]
        for directory in Path(parent).glob(f"highlander.{instance}.*") if parent else ():
            with suppress(OSError):  # a test may want something to live on in it
                directory.rmdir()


def _tree(pid: int) -> Iterator[int]:
    for child in children(pid):
        yield child
        yield from _tree(child)


@contextmanager
def node_at(home: Path, **options: Any) -> Iterator[Node]:
    """Return a started node whose first worker was met, and leave nothing of it running."""
    node = Node(home, **options)
    node.start()
    try:
        node.meet()
        yield node
    finally:
        node.close()


def _words(process: Path) -> list[bytes]:
    try:
        return (process / "cmdline").read_bytes().split(b"\0")
    except OSError:  # it has ended meanwhile
        return []

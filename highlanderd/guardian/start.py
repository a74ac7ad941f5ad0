"""The keeper's side of a child's start: its pipes, its fork, and whether its program was executed."""

from __future__ import annotations

import os

from highlanderd.guardian import cgroup
from highlanderd.guardian.launch import ABOUT_TO_EXECUTE, TIMES, explain, launch
from highlanderd.system import linux

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from highlanderd.guardian.launch import Spec

PIPE_SIZE = 1 << 20  # bytes: nobody reads while a worker is replaced
LONGEST_ANSWER = 64  # bytes: a step and an errno, or one mark


class Start:
    """A forked child, which answers through a pipe. The pipe ends when its program is executed, or when it dies.

    Raises OSError when the child cannot be forked. ``directory`` is its cgroup, ``nofile`` its limits on open files,
    ``logged`` are the write ends of pipes that a logger reads, by name. With ``late`` in ``spec`` it enters its cgroup
    itself: Linux 6.18 kills what is born into a cgroup that was killed once. With ``gated`` it waits for ``open_gate``
    before its program is executed.
    """

    __slots__ = ("_answer", "_answered", "_gate", "_logged", "_spec", "pid", "pipes")

    def __init__(
        self, spec: Spec, directory: str | None, nofile: tuple[int, int], logged: dict[str, int], *, gated: bool = False
    ) -> None:
        self._spec, self._answered, self._logged = spec, b"", logged
        self._gate: int | None = None
        self.pipes: dict[str, int] = {}
        """The read ends of its output, by ``stdout`` and ``stderr``."""
        keeper = os.getpid()
        stdio = self._streams() if spec.get("foreground") is None else (0, 1, 2)
        held = {*stdio}
        try:
            self._answer, theirs = os.pipe()
            held |= {self._answer, theirs}
            os.set_blocking(self._answer, False)
            gate = None
            if gated:
                gate, self._gate = os.pipe()
                held |= {gate, self._gate}
            born = None
            if directory and not spec.get("late"):
                born = cgroup.fork_into(directory, lambda: launch(spec, stdio, theirs, keeper, None, nofile, gate))
            self.pid: int = born or linux.fork(lambda: launch(spec, stdio, theirs, keeper, directory, nofile, gate))
            held -= {self._answer, self._gate}
        finally:
            for fd in held - {0, 1, 2}:
                os.close(fd)

    def _streams(self) -> tuple[int, int, int]:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        return null, self._open("stdout", null), self._open("stderr", null)

    def _open(self, name: str, null: int) -> int:
        if self._spec[name] == "null":
            return null
        theirs = self._logged[name] if name in self._logged else self._pipe(name)
        if self._spec["uid"] is not None and os.geteuid() == 0:
            os.fchown(theirs, self._spec["uid"], -1)  # else its own /dev/stdout is closed to it
        return theirs

    def _pipe(self, name: str) -> int:
        """Open a pipe that the worker reads; return its write end."""
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        linux.enlarge_pipe(theirs, PIPE_SIZE)
        self.pipes[name] = ours
        return theirs

    def open_gate(self, deadline: float, not_after: float) -> None:
        """Let a child that waits execute its program, unless it is too late by then."""
        gate, self._gate = self._gate, None
        if gate is not None:
            try:
                os.write(gate, TIMES.pack(deadline, not_after))
            except BrokenPipeError:
                pass  # it is dead, and its answer says why
            finally:
                os.close(gate)

    def fileno(self) -> int:
        """Return the descriptor of the answer; -1 once it is known."""
        return self._answer

    def read(self) -> bool:
        """Read the answer; return whether it is known. It always is once the child is reaped.

        The child is the program's user already while it may answer: more than an answer is none, and is not waited for.
        """
        try:
            while len(self._answered) < LONGEST_ANSWER and (piece := os.read(self._answer, LONGEST_ANSWER)):
                self._answered += piece
        except BlockingIOError:
            return False
        self.close()
        return True

    def close(self) -> None:
        """Take no answer any more."""
        os.close(self._answer)
        self._answer = -1

    @property
    def failure(self) -> str | None:
        """Why the program was not executed, as a sentence; None when it was. Only once the answer is known."""
        return failure(self._answered, self._spec)


def failure(answered: bytes, spec: Spec) -> str | None:
    """Return what an answer says, whatever it holds: None when the program was executed."""
    if answered == ABOUT_TO_EXECUTE:
        return None
    if not answered:
        return "not started: it was killed before its program could be executed"
    step, _, number = answered.removeprefix(ABOUT_TO_EXECUTE).rpartition(b" ")
    if not (number.isdigit() and len(number) < 5 and step.decode(errors="replace").isprintable()):
        return "not started: its process was disturbed before its program could be executed"
    return explain(step.decode(errors="replace"), int(number), spec)

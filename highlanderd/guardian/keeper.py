"""Stands by one child: places it, passes signals on, kills its whole tree in time, and proves that it is empty.

Forked from the guardian; it never waits for anybody, and it never opens a path of a user. Everything below it reparents
to it, so ECHILD is the proof. It ends with 0 only after that proof, however it came to end.
"""

from __future__ import annotations

import os
import select
import time

from highlanderd.guardian import cgroup, protocol
from highlanderd.guardian.channel import Channel
from highlanderd.guardian.killing import TreeKill, send_below, unkillable
from highlanderd.guardian.launch import ABOUT_TO_EXECUTE, explain, launch
from highlanderd.system import linux, priority, proctree

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from typing import Any

    from highlanderd.guardian.channel import Message
    from highlanderd.guardian.launch import Spec

PIPE_SIZE = 1 << 20  # bytes: nobody reads while a worker is replaced
AGAIN = 50  # milliseconds until what nobody wakes us for is tried again: a round of killing that has not killed all
REPORT_AGAIN = 0.04  # seconds, less than that: while it kills the guardian wants to hear that it does


class Keeper:
    """One child from its fork to the proof. ``spec`` is the worker's order, with term and ``not_after`` added.

    ``signals`` may be the guardian's: whoever reads it gets its own, and all but SIGCHLD are shrugged off.
    """

    def __init__(
        self, spec: Spec, signals: linux.Signals, guardian: Channel, worker: Channel, directory: str | None
    ) -> None:
        self._spec = spec
        self._guardian: Channel | None = guardian
        self._worker: Channel | None = worker
        self._directory = directory
        self._signals = signals
        self._timer = linux.Timer()
        self._children: proctree.Children | None = None
        self._killer: int | None = None
        """What kills the whole cgroup; opened early, as the list of children is: killing needs no descriptor more."""
        self._signalling: list[tuple[int, int]] = []
        """Signals still to be sent, each with its pid."""
        self._ordered: list[Message] = []
        """Orders to signal of which nobody was told yet."""
        self._again = False
        """Something could not be done for now, for want of descriptors or memory."""
        self._answer: int | None = None
        self._answered = b""
        self._pipes: dict[str, int] = {}
        self._left = self._complained = False
        self._owed_guardian = self._owed_worker = True
        self._reported = 0.0
        """When the guardian was told last."""
        self._owed_pipes = True
        self._killing = TreeKill()
        self._state = protocol.state(spec)

    def run(self, nofile: tuple[int, int]) -> int:
        """Keep the child until its tree is empty and somebody knows, or nobody is left to tell. Gives the exit code."""
        try:
            self._launch(nofile)
        except OSError as error:
            self._change(
                failed=f"cannot prepare the child: {error.strerror}; the machine is short of memory or processes"
            )
        while not self._finished():
            self._turn()
            if not self._finished():
                self._wait()
        if self._directory:
            cgroup.remove(self._directory)
        return 0

    def _finished(self) -> bool:
        abandoned = self._guardian is None and self._worker is None
        return bool(self._state["empty"]) and (self._left or abandoned)

    # ------------------------------------------------------------------------------------------------- the beginning

    def _launch(self, nofile: tuple[int, int]) -> None:
        spec, me = self._spec, os.getpid()
        self._children = proctree.Children()
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        stdio = null, self._open("stdout", spec["stdout"], null), self._open("stderr", spec["stderr"], null)
        answer, theirs = os.pipe()
        os.set_blocking(answer, False)
        if self._directory and not cgroup.create(self._directory):
            self._directory = None
        directory = self._directory
        self._killer = cgroup.killer(directory) if directory else None
        pid = linux.fork(lambda: launch(spec, stdio, theirs, me, directory, nofile))
        self._answer = answer
        self._change(pid=pid)
        for fd in {*stdio, theirs}:
            os.close(fd)

    def _open(self, name: str, kind: str, null: int) -> int:
        if kind == "null":
            return null
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        linux.enlarge_pipe(theirs, PIPE_SIZE)
        if self._spec["uid"] is not None and os.geteuid() == 0:
            os.fchown(theirs, self._spec["uid"], -1)  # else its own /dev/stdout is closed to it
        self._pipes[name] = ours
        return theirs

    # -------------------------------------------------------------------------------------------------- turn by turn

    def _wait(self) -> None:
        """Wait until something has happened; without end only while a child or a channel is there to end it."""
        poller = select.poll()
        for waker in (self._signals, self._timer):
            poller.register(waker, select.POLLIN)
        for channel, owed in ((self._guardian, self._owed_guardian), (self._worker, self._owed_worker)):
            if channel is not None:
                poller.register(channel, select.POLLIN | (select.POLLOUT if owed else 0))
        if self._answer is not None:
            poller.register(self._answer, select.POLLIN)
        killing = self._state["killed"] and not self._state["empty"]
        again = 0 if killing and self._killing.unfinished else AGAIN if killing or self._again else None
        try:
            poller.poll(again)
        except OSError as error:  # for want of memory, say: we look at everything in each turn anyway
            self._complain(error)
            time.sleep(AGAIN / 1000)

    def _turn(self) -> None:
        """Take in everything that is there; judge; then act and tell.

        What the system refuses for now is done in a later turn: it keeps nobody from the rest, and ends nothing.
        """
        self._again = False
        for step in (self._listen, self._reap, self._read_answer, self._judge, self._signal, self._tell):
            try:
                step()
            except OSError as error:
                self._complain(error)

    def _complain(self, error: OSError) -> None:
        self._again = True
        if not self._complained:
            self._complained = True
            linux.say(f"highlanderd: the keeper of {self._spec['program']} is hindered: {linux.confession(error)}")

    def _listen(self) -> None:
        """Hear the guardian before the worker that it may replace."""
        self._signals.take()
        self._guardian = self._hear(self._guardian)
        self._worker = self._hear(self._worker)

    def _judge(self) -> None:
        if linux.boottime() >= self._due():
            self._condemn("deadline")
        if self._guardian is None and self._worker is None:
            self._condemn("abandoned")
        due = linux.NEVER if self._state["empty"] or self._state["killed"] else self._due()
        if due != self._timer.at:  # before a round of killing that may be refused: it would wake us again and again
            self._timer.set(due)
        if self._state["killed"] and not self._state["empty"]:
            self._kill()

    def _due(self) -> float:
        """Before the program is executed its not-after ends the term as the deadline does."""
        deadline: float = self._state["deadline"]
        return deadline if self._state["started"] is not None else min(deadline, self._spec["not_after"])

    def _hear(self, channel: Channel | None) -> Channel | None:
        try:
            while channel is not None and (received := channel.receive()) is not None:
                heard = HANDLERS.get(received[0]["is"])
                if heard is not None:  # a newer worker may know more words
                    heard(self, *received)
        except EOFError:
            if channel is not None:
                channel.close()
            return None
        return channel

    def _on_worker(self, _message: Message, fds: list[int]) -> None:
        """Obey only the guardian's latest worker."""
        if fds:
            if self._worker is not None:
                self._worker.close()
            self._worker = Channel.of(fds[0])
            self._owed_worker = self._owed_pipes = True

    def _on_deadline(self, message: Message, _fds: list[int]) -> None:
        self._change(deadline=message["at"], memo=message["memo"])

    def _on_kill(self, _message: Message, _fds: list[int]) -> None:
        self._condemn("order")

    def _on_leave(self, _message: Message, _fds: list[int]) -> None:
        self._left = bool(self._state["empty"])

    def _on_signal(self, message: Message, _fds: list[int]) -> None:
        self._ordered.append(message)

    # ----------------------------------------------------------------------------------------------------- the child

    def _reap(self) -> None:
        while not self._state["empty"]:
            try:
                pid, status = linux.reap()
            except ChildProcessError:
                self._change(empty=True, undying=[])  # the proof
                return
            if pid == 0:
                return
            if pid == self._state["pid"] and self._state["status"] is None:
                self._change(status=status, exited_at=linux.boottime())

    def _read_answer(self) -> None:
        """Learn whether the program was executed. The pipe has ended by the time the child's death is known."""
        if self._answer is None:
            return
        try:
            while piece := os.read(self._answer, 4096):
                self._answered += piece
        except BlockingIOError:
            return
        os.close(self._answer)
        self._answer = None
        if self._answered == ABOUT_TO_EXECUTE:
            self._change(started=self._state["exited_at"] or linux.boottime())
        elif self._answered:
            step, number = self._answered.removeprefix(ABOUT_TO_EXECUTE).decode().split()
            self._change(failed=explain(step, int(number), self._spec))
        else:
            self._change(failed="not started: it was killed before its program could be executed")

    def _condemn(self, why: str) -> None:
        if not self._state["killed"] and not self._state["empty"]:
            self._change(killed=why, killed_at=linux.boottime())
            priority.hurry()  # a tree that floods the machine would keep us from killing it

    def _signal(self) -> None:
        """Send what was ordered. Raises OSError where there is no descriptor for it; the rest is kept for later."""
        pid, me = self._state["pid"], os.getpid()
        while self._ordered or self._signalling:
            while self._signalling:
                one, signum = self._signalling[0]
                if one != pid:
                    send_below(one, signum, me)
                elif self._state["status"] is None:
                    linux.send(one, signum)  # not reaped yet, so the pid is its own
                del self._signalling[0]
            if self._ordered:
                signum = self._ordered[0]["signum"]
                self._signalling = [(one, signum) for one in self._addressed(self._ordered[0], pid)]
                del self._ordered[0]

    def _addressed(self, order: Message, main: int | None) -> list[int]:
        """List whom an order to signal is for, each once."""
        if order["to"] == "main":
            return [] if main is None else [main]
        try:
            # Listed before anybody is told: whoever dies of it would take his own children out of the list.
            return [pid for pid in proctree.descendants(os.getpid()) if pid not in order.get("told", ())]
        except OSError:
            if main is not None and self._state["status"] is None and "told" not in order:
                order["told"] = (main,)
                linux.send(main, order["signum"])  # it needs no descriptor, and need not wait for one
            raise

    def _kill(self) -> None:
        """One round: what dies in it hands its children to us, and their SIGCHLD brings the next round.

        As long as it takes, the guardian is told that we are at it: it kills a keeper that has frozen meanwhile.
        """
        now = linux.boottime()
        if self._killer is not None:
            cgroup.kill_by(self._killer)
        left = [] if self._children is None else self._children.now()
        if now >= self._reported + REPORT_AGAIN:
            self._owed_guardian = True
            named = unkillable(self._state["killed_at"], left)
            if named != self._state["undying"]:
                self._change(undying=named)
        self._killing.round(left)

    # ----------------------------------------------------------------------------------------------------- telling

    def _change(self, **facts: Any) -> None:
        self._state.update(facts)
        self._owed_guardian = self._owed_worker = True

    def _tell(self) -> None:
        """Send the whole state to whom it is owed; who has no room now gets a newer one later.

        The guardian first: what the worker does next must find it knowing no less.
        """
        if self._owed_guardian and self._guardian is not None:
            self._owed_guardian = not self._guardian.send(self._state)
            self._reported = linux.boottime()
        if self._owed_worker and self._worker is not None:
            names, fds = (list(self._pipes), list(self._pipes.values())) if self._owed_pipes else ([], [])
            self._owed_worker = not self._worker.send(protocol.state_with_pipes(self._state, names), fds)
            self._owed_pipes = self._owed_pipes and self._owed_worker


HANDLERS = {
    "worker": Keeper._on_worker,
    "deadline": Keeper._on_deadline,
    "signal": Keeper._on_signal,
    "kill": Keeper._on_kill,
    "leave": Keeper._on_leave,
}

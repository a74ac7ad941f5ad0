"""The loggers as the guardian sees them: one for each child whose output is not thrown away, replaced when it dies.

The guardian opens the pipes, hands the write ends to the keeper, and holds the read ends: they outlive loggers,
workers and the keeper, and a new logger goes on where the last one was. A child that has no file of its own gets its
logger with its first output: many programs are silent for days, and a logger costs as much memory as a keeper.
"""

from __future__ import annotations

import os

from highlanderd.guardian import log_report, messages, protocol, shapes
from highlanderd.guardian.log_pipe import held
from highlanderd.guardian.logger import REPLACE_ME
from highlanderd.guardian.pauses import Pauses
from highlanderd.guardian.start import PIPE_SIZE
from highlanderd.system import linux
from highlanderd.system.stdlib import signal

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from highlanderd.guardian.channel import Message
    from highlanderd.guardian.fork_server import ForkServer
    from highlanderd.guardian.launch import Spec
    from highlanderd.guardian.worker import Worker

START_AFTER = 0.05  # seconds from a keeper's fork to its logger's at the latest: a child that is started comes first
FIRST_PAUSE = 0.05  # seconds; the first replacement comes at once
END_WITHIN = 2.0  # seconds for the last lines, once the daemon waits for nothing else
WHERE = ("files", "inherit")
"""Keys of an order that hold for a child's whole life."""
MOST_LEAVING = 3  # loggers of one program that have not ended, for want of a disk that works


class LoggerHandle:
    """What the guardian knows of one child's logger."""

    __slots__ = ("ended", "kill_at", "leaving", "pauses", "pid", "pipes", "report", "runs", "spec", "start_at", "term")

    def __init__(self, spec: Spec, pipes: dict[str, int], report: int) -> None:
        self.spec, self.pipes, self.report = spec, pipes, report
        self.term = protocol.term_of(spec)
        self.pid: int | None = None
        self.runs = 0
        """How many loggers were forked."""
        self.start_at, self.pauses = linux.NEVER, Pauses(FIRST_PAUSE)
        self.leaving = self.ended = False
        self.kill_at = linux.NEVER

    @property
    def silent(self) -> bool:
        """Whether nothing calls for a logger yet: no file has to be made, and no output has come."""
        return self.start_at == linux.NEVER and not self.runs

    def due(self) -> float:
        """Return when something has to be done."""
        if self.pid is not None:
            return self.kill_at
        return linux.NEVER if self.ended else self.start_at

    def close(self) -> None:
        """Let go of the descriptors."""
        for fd in (*self.pipes.values(), self.report):
            os.close(fd)
        self.pipes = {}


class Loggers:
    """All loggers of one guardian. Times are CLOCK_BOOTTIME seconds."""

    def __init__(self, worker: Worker, poller: linux.Poller, fork_server: ForkServer) -> None:
        self._worker, self._poller, self._fork_server = worker, poller, fork_server
        self._handles: list[LoggerHandle] = []
        self._silent: dict[int, LoggerHandle] = {}
        """By the read ends of its pipes, what waits for the first output of a child."""
        self._killed: set[int] = set()
        """Pids of forgotten loggers that may still live, because a disk that hangs keeps them from dying."""

    def __bool__(self) -> bool:
        """Whether lines may still be on their way to a file."""
        return bool(self._handles)

    def pids(self) -> set[int]:
        """Return the pids of all loggers."""
        return self._killed | {handle.pid for handle in self._handles if handle.pid is not None}

    def open(self, spec: Spec) -> dict[str, int]:
        """Open the pipes of a child that is about to be started. Return their write ends, by name. Raises OSError."""
        log = spec.get("log") or {"files": {}}
        names = [*log["files"], *log.get("inherit", ())]
        reads: dict[str, int] = {}
        writes: dict[str, int] = {}
        try:
            for name in names:
                reads[name], writes[name] = os.pipe()
                linux.enlarge_pipe(writes[name], PIPE_SIZE)
            if names:
                self._handles.append(LoggerHandle(spec, reads, log_report.memory()))
        except OSError:
            for fd in (*reads.values(), *writes.values()):
                os.close(fd)
            raise
        return writes

    def drop(self, spec: Spec) -> None:
        """Forget a child that was never started."""
        for handle in [handle for handle in self._handles if handle.spec is spec]:
            self._forget(handle)

    def begin(self, spec: Spec) -> None:
        """Show the worker the report of a child's logger, and fork it soon: the child's own start comes first.

        Files are made at once. Where there are none, the logger is forked with the first output.
        """
        for handle in self._handles:
            if handle.spec is spec:
                self._tell(handle)
                if spec["log"]["files"]:
                    handle.start_at = linux.boottime() + START_AFTER
                    self._poller.by(handle.start_at)
                else:
                    self._silent |= dict.fromkeys(handle.pipes.values(), handle)
                    for fd in handle.pipes.values():
                        self._poller.add(fd)

    def hasten(self, term: Message) -> None:
        """Fork the logger of a term now, unless one was forked, or waits: the child's start is over."""
        for handle in self._handles:
            if handle.term == term and not handle.runs and not handle.silent:
                self._start_now(handle)

    def receive(self, ready: set[int]) -> None:
        """Fork the loggers of children whose first output has come through ``ready`` descriptors.

        A pipe that has ended without any needs none.
        """
        for fd in ready & self._silent.keys():
            handle = self._silent.get(fd)
            if handle is None:  # its other pipe was ready, too
                continue
            if held(fd):
                self._start_now(handle)
            else:
                self._hear(fd)

    def _start_now(self, handle: LoggerHandle) -> None:
        self._hear(*handle.pipes.values())
        handle.start_at = 0.0
        self._poller.by(linux.boottime())

    def _hear(self, *fds: int) -> None:
        """Wait for the first output through these descriptors no more."""
        for fd in fds:
            if self._silent.pop(fd, None) is not None:
                self._poller.drop(fd)

    def list_to_worker(self) -> None:
        """Show a new worker what the loggers of living children report."""
        for handle in self._handles:
            if not handle.leaving:
                self._tell(handle)

    def _tell(self, handle: LoggerHandle) -> None:
        try:
            report = os.dup(handle.report)
        except OSError:
            return  # this worker sees no lines; they are written all the same
        self._worker.send(messages.logger(handle.term), report)

    def _start(self, handle: LoggerHandle, now: float) -> None:
        again = handle.runs > 0
        try:
            order = messages.become_logger(list(handle.pipes), again=again)
            fds = [handle.report, *handle.pipes.values()]
            handle.pid, channel = self._fork_server.fork(order, handle.spec, fds)
        except OSError as error:
            self._worker.log(f"no logger can be forked for {handle.term['program']}: {error.strerror}; trying again")
            self._plan(handle, now, FIRST_PAUSE)
            return
        channel.close()
        handle.runs += 1
        if handle.leaving:
            self._send(handle, signal.SIGTERM)

    def _plan(self, handle: LoggerHandle, now: float, least: float = 0.0) -> None:
        handle.start_at = now + max(handle.pauses.next(), least)
        self._poller.by(handle.start_at)

    def reaped(self, pid: int, status: int) -> bool:
        """Take in the death of a child of the guardian's. Return whether it was a logger."""
        handle = next((handle for handle in self._handles if handle.pid == pid), None)
        if handle is None:
            known = pid in self._killed
            self._killed.discard(pid)
            return known
        handle.pid = None
        code = os.waitstatus_to_exitcode(status)
        if code == REPLACE_ME:
            self._poller.by(linux.boottime())  # at once: nothing is wrong
        elif code == 0:
            handle.ended = True
            if handle.leaving:
                self._forget(handle)
        else:
            self._worker.log(f"the logger of {handle.term['program']} has died: another one goes on where it was")
            self._plan(handle, linux.boottime())
        return True

    def leave(self, term: Message) -> None:
        """Have the logger of a term whose tree is empty write what the pipes hold, and end."""
        for handle in list(self._handles):
            if handle.term == term:
                self._leave(handle)

    def _leave(self, handle: LoggerHandle) -> None:
        if handle.silent:
            if not any(held(fd) for fd in handle.pipes.values()):
                self._forget(handle)
                return
            self._start_now(handle)
        if not handle.leaving:
            handle.leaving = True
            self._send(handle, signal.SIGTERM)
            self._poller.by(linux.boottime())

    def reopen(self, term: Message | None = None) -> None:
        """Have the logger of a term open its files anew, or all loggers."""
        for handle in self._handles:
            if term is None or handle.term == term:
                self._send(handle, signal.SIGUSR1)

    def order(self, term: Message, order: Message) -> None:
        """Have the logger of a term go by another order; where the streams go does not change.

        Raises ValueError when it is no order.
        """
        shapes.check_keys(order, protocol.LOG, protocol.LATER_LOG)
        for handle in self._handles:
            if handle.term == term:
                fixed = {key: handle.spec["log"][key] for key in WHERE if key in handle.spec["log"]}
                handle.spec["log"] = {**handle.spec["log"], **order, **fixed}  # for the next logger
                self._give(handle)

    def _give(self, handle: LoggerHandle) -> None:
        program = handle.term["program"]
        try:
            log_report.give_order(handle.report, handle.spec["log"])
        except OSError as error:  # for want of memory, or by RLIMIT_FSIZE
            why = f"{error.strerror}; restart {program} to have it go by them"
            self._worker.log(f"the logger of {program} cannot be told its new settings: {why}")
        else:
            self._send(handle, signal.SIGHUP)

    def dismiss(self, now: float) -> None:
        """End all loggers, because the daemon ends; each has a moment for its last lines."""
        for handle in list(self._handles):
            self._leave(handle)
            handle.kill_at = min(handle.kill_at, now + END_WITHIN)

    def judge(self, now: float) -> float:
        """Fork what is to be forked, kill what has hung for too long. Return when to judge again."""
        for handle in list(self._handles):
            if handle.leaving and handle.ended:
                self._forget(handle)
            elif now >= handle.kill_at:
                self._kill(handle)
            elif now >= handle.due():
                self._start(handle, now)
        self._kill_hung()
        return min((handle.due() for handle in self._handles), default=linux.NEVER)

    def _kill_hung(self) -> None:
        """Keep no more than a few loggers of one program that do not end."""
        leaving: dict[str, list[LoggerHandle]] = {}
        for handle in self._handles:
            if handle.leaving:
                leaving.setdefault(handle.term["program"], []).append(handle)
        for handles in leaving.values():
            for handle in handles[:-MOST_LEAVING]:
                self._kill(handle)

    def _kill(self, handle: LoggerHandle) -> None:
        if handle.pid is not None:
            left = sum(held(fd) for fd in handle.pipes.values())
            lost = f"{left} bytes of its output are lost"
            self._worker.log(f"the logger of {handle.term['program']} does not end: killing it; {lost}")
            self._send(handle, signal.SIGKILL)
            self._killed.add(handle.pid)
        self._forget(handle)

    def _send(self, handle: LoggerHandle, signum: int) -> None:
        if handle.pid is not None:
            linux.send(handle.pid, signum)  # not reaped yet, so the pid is its own

    def _forget(self, handle: LoggerHandle) -> None:
        self._hear(*handle.pipes.values())
        handle.close()
        self._handles.remove(handle)

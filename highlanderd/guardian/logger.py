"""A logger: takes what one child writes and brings it where it belongs, as the program's user. Forked by the guardian.

It outlives workers. It is replaced when it dies, and nothing is lost by that: what a pipe holds is looked at (tee),
written, and only then taken out. So a pipe is the queue, and a child waits while it is full, as with every pipe.
A disk that hangs, or a reader that takes nothing, stops this logger alone.
"""

from __future__ import annotations

import os
import select
import time

from highlanderd.guardian import log_report
from highlanderd.guardian.launch import change_user
from highlanderd.guardian.log_file import LogFile
from highlanderd.guardian.log_outlet import Aside, AsUser, Inherited
from highlanderd.guardian.log_pipe import CHUNK, DROPPED, NOTHING, SHAPED_CHUNK, LoggedPipe, Peek, held
from highlanderd.guardian.log_shape import shape_of
from highlanderd.guardian.log_tail import LastLines
from highlanderd.system import linux, way
from highlanderd.system.stdlib import signal

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from highlanderd.guardian.channel import Message
    from highlanderd.guardian.launch import Spec
    from highlanderd.guardian.log_outlet import Outlet

LONGEST = 1 << 16  # bytes of a line that is waited for to be whole
PATIENCE = 1.0  # seconds for which a line without its end waits for the rest
AGAIN = 1.0  # seconds until a file that failed is tried again
STALLED = 1.0  # seconds without progress, after which lines are dropped; a disk that works may take tenths for a flush
LOOK_SOON = 0.005  # seconds until a pipe whose lines were dropped is looked at again
REPORT_EVERY = 0.1  # seconds
KEPT_MEMORY = 1 << 20  # bytes: else a flood of shaped blocks gets new pages from the system for each of them
REPLACE_ME = 75  # exit code: nothing is wrong, but this order needs another logger


class Logger:
    """One loop over pipes, signals and time. ``spec`` is the child's, ``outlets`` are where its streams go, by name."""

    def __init__(
        self, spec: Spec, pipes: dict[str, int], outlets: dict[str, Outlet], report: int, signals: linux.Signals
    ) -> None:
        self._spec, self._outlets, self._signals = spec, set(outlets.values()), signals
        self._report_fd, self._report = report, {**_former(report), "troubles": {}, "unrotated": {}}
        self._pipes = [LoggedPipe(name, fd, outlets[name], self._report) for name, fd in pipes.items()]
        self._peek = Peek()
        self._last = LastLines(self._report["last"], self._report["number"])
        self._null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        self._watch = select.epoll()
        self._changed, self._reported = False, 0.0
        self._leaving = False
        """The child's tree is empty: what the pipes hold is all."""
        self._reopening = self._to_be_replaced = False
        self._order(spec["log"])

    def run(self) -> int:
        """Log until every pipe has ended."""
        self._watch.register(self._signals.fileno(), select.EPOLLIN)
        for pipe in self._pipes:
            self._watch.register(pipe.fd, select.EPOLLIN | select.EPOLLET)
        while any(not pipe.ended for pipe in self._pipes) or any(outlet.busy for outlet in self._outlets):
            self._wait()
            self._pipes.sort(key=lambda pipe: pipe.taken_at)  # two may share an outlet that takes one piece at a time
            for pipe in self._pipes:
                if not pipe.ended:
                    self._serve(pipe)
            if self._reopening:
                self._open()
            self._publish(time.monotonic())
            if self._to_be_replaced and not any(pipe.rest and not pipe.owed for pipe in self._pipes):
                break
        self._publish(linux.NEVER)
        return REPLACE_ME if self._to_be_replaced else 0

    def _wait(self) -> None:
        now = time.monotonic()
        dues = [min(pipe.due(now), pipe.room_at) for pipe in self._pipes if not pipe.ended]
        if self._changed:
            dues.append(self._reported + REPORT_EVERY)
        if [outlet for outlet in self._outlets if not outlet.rest(now)]:
            dues.append(now + AGAIN)
        due = min(dues, default=linux.NEVER)
        events = dict(self._watch.poll(None if due == linux.NEVER else max(due - now, 0.0)))
        for pipe in self._pipes:
            if pipe.fd in events:
                pipe.ready = True
                pipe.hung_up = pipe.hung_up or bool(events[pipe.fd] & select.EPOLLHUP)
            if pipe.blocked and pipe.outlet.fd in events:
                pipe.blocked = False
        for outlet in self._outlets:
            if outlet.fd in events:
                self._watch.unregister(outlet.fd)
        if self._signals.fileno() in events:
            self._obey(self._signals.take())

    def _obey(self, signals: list[int]) -> None:
        if signal.SIGHUP in signals:
            self._order({**self._spec["log"], **log_report.order(self._report_fd)})
        if signal.SIGUSR1 in signals:
            self._reopening = True
            for outlet in self._outlets:
                outlet.close()
        if signal.SIGCHLD in signals:
            self._reap()
        if signal.SIGTERM in signals:
            self._leaving = True
            for pipe in self._pipes:
                pipe.ready = True

    def _order(self, order: Spec) -> None:
        """Go by this order from now on."""
        self._to_be_replaced = _drops(order) != _drops(self._spec["log"])
        self._spec = {**self._spec, "log": order}
        for pipe in self._pipes:
            pipe.shape = shape_of(self._spec, pipe.name)
            pipe.drops = _drops(order)
        for outlet in self._outlets:
            outlet.obey(order)

    def _open(self) -> None:
        """Open all files, which were closed for that, and report what came of it."""
        if any(outlet.busy for outlet in self._outlets):
            return
        for outlet in self._outlets:
            try:
                outlet.write(NOTHING)
            except BlockingIOError:
                continue
            except OSError as error:
                self._trouble(outlet, error.strerror or str(error))
            else:
                self._trouble(outlet, None)
        self._reopening = False
        self._report["reopened"] += 1
        self._changed = True

    def _reap(self) -> None:
        try:
            while (ended := linux.reap())[0]:
                for outlet in self._outlets:
                    outlet.reaped(*ended)
        except ChildProcessError:
            return

    # ---------------------------------------------------------------------------------------------- from pipe to outlet

    def _serve(self, pipe: LoggedPipe) -> None:
        now = time.monotonic()
        if pipe.due(now) <= now:
            self._take(pipe)
        elif pipe.drop_at <= now and (pipe.ready or pipe.room_at <= now):
            pipe.ready = False
            self._make_room(pipe)

    def _take(self, pipe: LoggedPipe) -> None:
        """Write what is under way; else look at what the pipe holds, write it, and take it out of the pipe."""
        if not pipe.rest:
            if pipe.dropped:
                self._announce(pipe)
            elif not self._look(pipe):
                return
        size = len(pipe.rest)
        try:
            while pipe.rest:
                pipe.rest = pipe.rest[pipe.outlet.write(pipe.rest) :]
        except BlockingIOError:
            self._block(pipe, moved=len(pipe.rest) < size)
        except OSError as error:
            self._fail(pipe, error)
        else:
            pipe.try_at, pipe.drop_at, pipe.room_at, pipe.ready = 0.0, linux.NEVER, linux.NEVER, True
            pipe.taken_at = time.monotonic()
            self._trouble(pipe.outlet, None)
            self._account(pipe)

    def _announce(self, pipe: LoggedPipe) -> None:
        line = memoryview(DROPPED % pipe.dropped)
        pipe.rest = line if pipe.shape is None else pipe.shape(line, time.time())[0]
        pipe.dropped = 0

    def _look(self, pipe: LoggedPipe) -> bool:
        """Shape what the pipe holds. Return whether that is anything."""
        try:
            size = self._peek.fill(pipe.fd, CHUNK if pipe.shape is None else SHAPED_CHUNK)
        except BlockingIOError:
            pipe.ready = False
            if self._leaving:
                self._end(pipe)
            return False
        if not size:
            self._end(pipe)
            return False
        size = self._whole(pipe, size)
        if size:
            now = time.time()
            block = self._peek.view[:size]
            shaped = (block, self._peek.lines(size)) if pipe.shape is None else pipe.shape(block, now)
            pipe.owed, (pipe.rest, pipe.owed_lines) = size, shaped
            self._last.keep(block, pipe.owed_lines, pipe.name, now)
        return size > 0

    def _whole(self, pipe: LoggedPipe, size: int) -> int:
        """Return how much of what was looked at is to be written now: whole lines, while that can wait."""
        whole = self._peek.whole(size)
        now = time.monotonic()
        full = size >= min(LONGEST, pipe.capacity)
        if whole or full or pipe.hung_up or self._leaving or now >= pipe.waiting:
            pipe.waiting = linux.NEVER
            return whole or size
        pipe.ready, pipe.waiting = False, min(pipe.waiting, now + PATIENCE)
        return 0

    def _account(self, pipe: LoggedPipe) -> None:
        """Take what was written, or is in memory now, out of the pipe."""
        if pipe.owed:
            pipe.lines += pipe.owed_lines
            pipe.bytes += pipe.owed
            self._changed = True
        pipe.take_out(self._null)

    def _end(self, pipe: LoggedPipe) -> None:
        pipe.ended = True
        self._watch.unregister(pipe.fd)
        os.close(pipe.fd)

    # ------------------------------------------------------------------------------------------------- what goes wrong

    def _block(self, pipe: LoggedPipe, *, moved: bool) -> None:
        """Wait until the outlet takes something again. A child waits, too, but not for one that has stalled."""
        pipe.keep_rest()
        pipe.blocked = True
        fd = pipe.outlet.fd
        if fd is not None and not any(other.blocked and other.outlet is pipe.outlet for other in self._others(pipe)):
            self._watch.register(fd, pipe.outlet.events)
        if not pipe.drops:
            pipe.drop_at = pipe.room_at = linux.NEVER
        elif moved or pipe.drop_at == linux.NEVER:
            pipe.drop_at = pipe.room_at = time.monotonic() + STALLED

    def _others(self, pipe: LoggedPipe) -> list[LoggedPipe]:
        return [other for other in self._pipes if other is not pipe]

    def _fail(self, pipe: LoggedPipe, error: OSError) -> None:
        """Try again later; not for a child whose tree is empty, because no process waits for its output."""
        pipe.keep_rest()
        pipe.drop_at = time.monotonic()
        pipe.try_at = pipe.drop_at + AGAIN
        self._trouble(pipe.outlet, error.strerror or str(error))
        if self._leaving:
            self._end(pipe)
        else:
            self._make_room(pipe)

    def _trouble(self, outlet: Outlet, why: str | None) -> None:
        name = outlet.name
        for kind, text in (("troubles", why), ("unrotated", outlet.unrotated)):
            if self._report[kind].get(name) != text:
                self._report[kind] = {**self._report[kind], name: text}
                if text is None:
                    del self._report[kind][name]
                    times = self._report["recovered"]
                    self._report["recovered"] = {**times, name: times.get(name, 0) + (kind == "troubles")}
                self._changed = True

    def _make_room(self, pipe: LoggedPipe) -> None:
        """Drop the oldest lines of a pipe that is nearly full, so that its child goes on.

        A child that fills the pipe with one long write wakes nobody: it is looked at again soon, and less often while
        there is nothing to drop.
        """
        dropped = pipe.all_dropped
        while held(pipe.fd) >= pipe.capacity * 3 // 4:
            self._account(pipe)  # it is in memory, and comes before the gap
            try:
                size = self._peek.fill(pipe.fd)
            except BlockingIOError:  # the child has read its own pipe
                break
            if not size:  # and has ended
                break
            size = self._peek.whole(size) or size
            pipe.owed, pipe.owed_lines = size, self._peek.lines(size)
            self._last.keep(self._peek.view[:size], pipe.owed_lines, pipe.name, time.time())
            pipe.dropped += pipe.owed_lines
            pipe.all_dropped += pipe.owed_lines
            self._account(pipe)
        pipe.pause = LOOK_SOON if pipe.all_dropped > dropped else min(2 * pipe.pause, AGAIN)
        pipe.room_at = time.monotonic() + pipe.pause

    def _publish(self, now: float) -> None:
        if not self._changed or now < self._reported + REPORT_EVERY:
            return
        self._changed, self._reported = False, time.monotonic()
        self._report["lines"] = {pipe.name: pipe.lines for pipe in self._pipes}
        self._report["bytes"] = {pipe.name: pipe.bytes for pipe in self._pipes}
        self._report["dropped"] = {pipe.name: pipe.all_dropped for pipe in self._pipes}
        self._report["last"], self._report["number"] = self._last.cut(), self._last.number
        try:
            log_report.publish(self._report_fd, self._report)
        except OSError:  # for want of memory, or by RLIMIT_FSIZE: lines are written all the same
            self._changed = True


def _drops(order: Spec) -> bool:
    return bool(order.get("overflow") == "drop")


def _former(report: int) -> Message:
    """Return what an earlier logger has reported."""
    try:
        return log_report.read(report) or log_report.NOTHING
    except ValueError:
        return log_report.NOTHING


def become_logger(spec: Spec, pipes: dict[str, int], report: int, signals: linux.Signals, *, again: bool) -> int:
    """Be the logger of one child, in a fork of the guardian: let go of all that is the guardian's, root included.

    ``again``: an earlier logger of this child has died.
    """
    os.setsid()
    linux.set_name(f"log {spec['program']}")
    linux.close_all_but(0, 1, 2, signals.fileno(), report, *pipes.values())
    if "stdout" not in spec["log"].get("inherit", ()):
        os.dup2(0, 1)
    linux.keep_memory(KEPT_MEMORY)
    os.chdir("/")
    os.umask(0o027)
    found = outlets(spec, again=again)
    if spec["uid"] is not None:
        linux.forbid_attaching()  # to the program, whose user this is now
    return Logger(spec, pipes, found, report, signals).run()


def outlets(spec: Spec, *, again: bool) -> dict[str, Outlet]:
    """Become the program's user, and return where each stream goes.

    The logger keeps the daemon's user where that alone can put anything in the place of a file. It then touches other
    files of the program as the program's user.
    """
    order, uid, gid = spec["log"], spec["uid"], spec["gid"]
    gids = {*(spec["groups"] or ()), gid}
    paths: dict[str, bytes] = order["files"]
    ours = {path for path in paths.values() if uid is not None and _safe(path, gids)}
    if uid is not None and not ours:
        change_user(uid, gid, spec["groups"])
    elif uid is not None and not ours.issuperset(paths.values()):
        os.setgroups(spec["groups"] or [gid])
    shared: dict[bytes, Outlet] = {}
    for path in paths.values():
        if path not in shared:
            file = LogFile(path, torn=again)
            outlet = AsUser(file, uid, gid) if ours and path not in ours else file
            shared[path] = Aside(outlet) if _drops(order) else outlet
    inherited: dict[str, Outlet] = {name: Inherited(name) for name in order.get("inherit", ())}
    return {name: shared[path] for name, path in paths.items()} | inherited


def _safe(path: bytes, gids: set[int]) -> bool:
    try:
        return way.sheltered(os.path.dirname(path), gids)  # the file itself is opened without following a link
    except OSError:
        return False

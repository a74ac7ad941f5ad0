"""A logger: takes what one child writes and brings it into files, as the program's user. Forked by the guardian.

It outlives workers. It is replaced when it dies, and nothing is lost by that: what a pipe holds is looked at (tee),
written, and only then taken out. So a pipe is the queue, and a child waits while it is full, as with every pipe.
A disk that hangs stops this logger alone.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import time

from highlanderd.guardian import log_report
from highlanderd.guardian.launch import change_user
from highlanderd.guardian.log_file import LogFile
from highlanderd.system import linux, way
from highlanderd.system.stdlib import signal

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from highlanderd.guardian.launch import Spec

CHUNK = 1 << 18  # bytes looked at in one turn
LONGEST = 1 << 16  # bytes of a line that is waited for to be whole
PATIENCE = 1.0  # seconds for which a line without its end waits for the rest
AGAIN = 1.0  # seconds until a file that failed is tried again
REPORT_EVERY = 0.1  # seconds
KEPT_LINES = 200
KEPT_BYTES = 1000  # of each line kept for ``show``
KEPT_TAIL = 1 << 16  # bytes at the end of a chunk that are looked at for that
FIONREAD = 0x541B
DROPPED = b"[highlanderd: %d lines dropped here: they came faster than they could be written]\n"


class Peek:
    """Looks at what a pipe holds without taking it out: through a second pipe, into memory that is used again."""

    def __init__(self) -> None:
        self._out, self._in = os.pipe()
        linux.enlarge_pipe(self._in, CHUNK)
        self.buffer = bytearray(CHUNK)
        self.view = memoryview(self.buffer)

    def fill(self, pipe: int) -> int:
        """Copy what ``pipe`` holds to the buffer. Return its size, 0 at the end of file. Raises BlockingIOError."""
        size = linux.tee(pipe, self._in, CHUNK)
        at = 0
        while at < size:
            at += os.readv(self._out, [self.view[at:size]])
        return size


class LoggedPipe:
    """One pipe of the child."""

    __slots__ = ("capacity", "dropped", "ended", "fd", "file", "hung_up", "lines", "name", "ready", "try_at", "waiting")

    def __init__(self, name: str, fd: int, file: LogFile, lines: int) -> None:
        self.name, self.fd, self.file, self.lines = name, fd, file, lines
        self.capacity = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
        self.ready = True
        """There may be something new in the pipe."""
        self.hung_up = self.ended = False
        self.waiting = linux.NEVER
        """When a line without its end is written as it is."""
        self.try_at = 0.0
        """When a file that failed is tried again."""
        self.dropped = 0
        """Lines that were dropped and not announced yet."""

    def held(self) -> int:
        """Return how many bytes the pipe holds."""
        return int(struct.unpack("i", fcntl.ioctl(self.fd, FIONREAD, b"\0" * 4))[0])

    def due(self, now: float) -> float:
        """Return when to look at it: now, or at one of its times."""
        return max(now, self.try_at) if self.ready else max(self.waiting, self.try_at)


class Logger:
    """One loop over pipes, signals and time. ``again``: an earlier logger of this child has died."""

    def __init__(
        self, order: Spec, pipes: dict[str, int], report: int, signals: linux.Signals, *, again: bool = False
    ) -> None:
        self._report_fd, self._signals = report, signals
        self._report = log_report.read(report)
        self._report["troubles"], self._report["unrotated"] = {}, {}
        self._files: dict[bytes, LogFile] = {}
        for path in order["files"].values():
            self._files.setdefault(path, LogFile(path, order["max_bytes"], order["backups"]))
        self._torn = set(self._files.values()) if again else set()
        """Files that may end in the middle of a line."""
        counted = self._report["lines"]
        self._streams = [
            LoggedPipe(name, fd, self._files[order["files"][name]], counted.get(name, 0)) for name, fd in pipes.items()
        ]
        self._peek = Peek()
        self._null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        self._watch = select.epoll()
        self._tail = bytearray()
        """The end of what was written since the last report."""
        self._changed = False
        self._reported = 0.0
        self._leaving = False
        """The child's tree is empty: what the pipes hold is all."""

    def run(self) -> int:
        """Log until every pipe has ended."""
        self._watch.register(self._signals.fileno(), select.EPOLLIN)
        for stream in self._streams:
            self._watch.register(stream.fd, select.EPOLLIN | select.EPOLLET)
        while any(not stream.ended for stream in self._streams):
            self._wait()
            for stream in self._streams:
                if not stream.ended and stream.due(time.monotonic()) <= time.monotonic():
                    self._take(stream)
            self._publish(time.monotonic())
        self._publish(linux.NEVER)
        return 0

    def _wait(self) -> None:
        now = time.monotonic()
        dues = [stream.due(now) for stream in self._streams if not stream.ended]
        if self._changed:
            dues.append(self._reported + REPORT_EVERY)
        if [file for file in self._files.values() if not file.rest(now)]:
            dues.append(now + AGAIN)
        due = min(dues)
        events = dict(self._watch.poll(None if due == linux.NEVER else max(due - now, 0.0)))
        for stream in self._streams:
            if stream.fd in events:
                stream.ready = True
                stream.hung_up = stream.hung_up or bool(events[stream.fd] & select.EPOLLHUP)
        if self._signals.fileno() in events:
            self._obey(self._signals.take())

    def _obey(self, signals: list[int]) -> None:
        if signal.SIGUSR1 in signals:
            for file in self._files.values():
                file.close()
        if signal.SIGTERM in signals:
            self._leaving = True
            for stream in self._streams:
                stream.ready = True

    # ------------------------------------------------------------------------------------------------ from pipe to file

    def _take(self, stream: LoggedPipe) -> None:
        """Look at what the pipe holds, write it, and take what was written out of the pipe."""
        try:
            size = self._peek.fill(stream.fd)
        except BlockingIOError:
            stream.ready, stream.ended = False, self._leaving
            return
        if not size:
            self._end(stream)
            return
        size = self._whole(stream, size)
        if size:
            self._write(stream, size)

    def _whole(self, stream: LoggedPipe, size: int) -> int:
        """Return how much of what was looked at is to be written now: whole lines, while that can wait."""
        whole = self._peek.buffer.rfind(b"\n", 0, size) + 1
        now = time.monotonic()
        full = size >= min(LONGEST, stream.capacity)
        if whole or full or stream.hung_up or self._leaving or now >= stream.waiting:
            stream.waiting = linux.NEVER
            return whole or size
        stream.ready, stream.waiting = False, min(stream.waiting, now + PATIENCE)
        return 0

    def _write(self, stream: LoggedPipe, size: int) -> None:
        done = 0
        try:
            self._prepare(stream)
            while done < size:
                done += stream.file.write(self._peek.view[done:size])
        except OSError as error:
            if done:
                self._trouble(stream.file.path, None)
            self._fail(stream, error)
        else:
            stream.try_at = 0.0
            self._trouble(stream.file.path, None)
        self._account(stream, done)
        if stream.try_at and done < size:
            self._make_room(stream)

    def _prepare(self, stream: LoggedPipe) -> None:
        if stream.file in self._torn:
            self._torn.discard(stream.file)  # first: what cannot be mended must not keep the rest from being written
            stream.file.end_line()
        if stream.dropped:
            stream.file.write(memoryview(DROPPED % stream.dropped))
            stream.dropped = 0

    def _account(self, stream: LoggedPipe, done: int) -> None:
        """Take ``done`` bytes, which stand in the buffer, out of the pipe, and keep what is to be known of them."""
        left = done
        while left:
            left -= os.splice(stream.fd, self._null, left)
        if done:
            stream.lines += self._count(done)
            self._keep(done)

    def _count(self, done: int) -> int:
        buffer = self._peek.buffer
        return buffer.count(b"\n", 0, done) + (buffer[done - 1] != 0x0A)

    def _keep(self, done: int) -> None:
        self._changed = True
        self._tail += self._peek.view[max(done - KEPT_TAIL, 0) : done]
        if not self._tail.endswith(b"\n"):
            self._tail += b"\n"
        if len(self._tail) > 2 * KEPT_TAIL:
            del self._tail[:-KEPT_TAIL]

    def _last_lines(self) -> list[bytes]:
        """Return the last lines, those that came since the last report included."""
        lines = bytes(self._tail).removesuffix(b"\n").rsplit(b"\n", KEPT_LINES) if self._tail else []
        if len(lines) > KEPT_LINES or len(self._tail) >= KEPT_TAIL:
            del lines[0]  # it is the rest, or may lack its beginning
        self._tail.clear()
        return [*self._report["last"], *(line[:KEPT_BYTES] for line in lines)][-KEPT_LINES:]

    def _end(self, stream: LoggedPipe) -> None:
        stream.ended = True
        self._watch.unregister(stream.fd)
        os.close(stream.fd)

    # ------------------------------------------------------------------------------------------------- what goes wrong

    def _fail(self, stream: LoggedPipe, error: OSError) -> None:
        """Try again later; not for a child whose tree is empty, because no process waits for its output."""
        stream.try_at = time.monotonic() + AGAIN
        self._trouble(stream.file.path, error.strerror or str(error))
        if self._leaving:
            self._end(stream)

    def _trouble(self, path: bytes, why: str | None) -> None:
        name = os.fsdecode(path)
        for kind, text in (("troubles", why), ("unrotated", self._files[path].unrotated)):
            if self._report[kind].get(name) != text:
                self._report[kind] = {**self._report[kind], name: text}
                if text is None:
                    del self._report[kind][name]
                    times = self._report["recovered"]
                    self._report["recovered"] = {**times, name: times.get(name, 0) + (kind == "troubles")}
                self._changed = True

    def _make_room(self, stream: LoggedPipe) -> None:
        """Drop the oldest lines of a full pipe whose file fails: no child waits for an error."""
        while not stream.ended and stream.held() >= stream.capacity * 3 // 4:
            size = self._peek.fill(stream.fd)
            size = self._peek.buffer.rfind(b"\n", 0, size) + 1 or size
            stream.dropped += self._count(size)
            self._account(stream, size)

    def _publish(self, now: float) -> None:
        if not self._changed or now < self._reported + REPORT_EVERY:
            return
        self._changed, self._reported = False, time.monotonic()
        self._report["lines"] = {stream.name: stream.lines for stream in self._streams}
        self._report["last"] = self._last_lines()
        log_report.publish(self._report_fd, self._report)


def become_logger(spec: Spec, pipes: dict[str, int], report: int, signals: linux.Signals, *, again: bool) -> int:
    """Be the logger of one child, in a fork of the guardian: let go of all that is the guardian's, root included."""
    os.setsid()
    linux.set_name(f"log {spec['program']}")
    linux.close_all_but(0, 1, 2, signals.fileno(), report, *pipes.values())
    os.dup2(0, 1)
    os.chdir("/")
    os.umask(0o027)
    order = spec["log"]
    logger = Logger(order, pipes, report, signals, again=again)  # its pipe is made as root, whose share has no bound
    gids = {*(spec["groups"] or ()), spec["gid"]}
    if spec["uid"] is not None and not all(_safe(path, gids) for path in order["files"].values()):
        change_user(spec["uid"], spec["gid"], spec["groups"])
    return logger.run()


def _safe(path: bytes, gids: set[int]) -> bool:
    try:
        return way.sheltered(os.path.dirname(path), gids)  # the file itself is opened without following a link
    except OSError:
        return False

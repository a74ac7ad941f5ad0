"""Look at paths that a program's user may have put there: as that user, in a process of its own, and not for ever.

A file system that hangs would keep a thread of the daemon for ever, and root must not open what another user chose.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

from highlanderd.config.identity import Identity
from highlanderd.system import path_reader

WITHIN: Final = 5.0
"""Seconds for an answer. A local disk answers in milliseconds, a network file system that works within a second."""


class _ReaderProcess:
    """The process, and our end of the socket that is its standard input and output.

    It acts as users who may be hostile: what it says counts as theirs.
    """

    def __init__(self, program: str) -> None:
        isolated = "-ISB" if sys.dont_write_bytecode else "-IS"
        self._socket, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [sys.executable, isolated, program], stdin=theirs.fileno(), stdout=theirs.fileno(), cwd="/", env={}
            )
        except OSError:
            self._socket.close()
            raise
        finally:
            theirs.close()

    def ask(self, operation: str, path: Path, who: Identity) -> tuple[int, int, bytes]:
        """Return an errno, a number and content. Raises OSError or ValueError when there is no whole answer in time."""
        end = time.monotonic() + WITHIN
        self._socket.settimeout(WITHIN)
        self._socket.sendall(path_reader.request(operation, os.fsencode(path), *who))
        error, number, size = path_reader.ANSWER.unpack(self._receive(path_reader.ANSWER.size, end))
        if size > path_reader.LARGEST:
            raise ValueError("too long")
        return error, number, self._receive(size, end)

    def _receive(self, size: int, end: float) -> bytes:
        data = b""
        while len(data) < size:
            self._socket.settimeout(max(end - time.monotonic(), 0.001))
            piece = self._socket.recv(size - len(data))
            if not piece:
                raise ValueError("half an answer")
            data += piece
        return data

    def kill(self) -> None:
        """Kill the process, and let go of it."""
        self._process.kill()
        self._socket.close()

    def ended(self, within: float = 0.1) -> bool:
        """Return whether the killed process is gone after so many seconds; one that hangs in the kernel stays."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(within)
        return self._process.returncode is not None


_hung: dict[Path, _ReaderProcess] = {}
"""Readers that were killed and have not ended, by the path that they hang at: the next one would hang there, too."""


class PathReader:
    """Answers about paths, until it is closed. The process is started for the first question, or ahead of it.

    Every method raises OSError; TimeoutError when there is no answer.
    """

    def __init__(self, program: str = path_reader.__file__) -> None:
        self._program = program
        self._reader: _ReaderProcess | None = None
        self.hung: Path | None = None
        """The last path that gave no answer."""
        self._looks: dict[tuple[str, Path, Identity], tuple[int, int, bytes]] = {}
        """What was answered about what is there, without content: many programs have one command."""

    def __enter__(self) -> PathReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reader is not None:
            self._reader.kill()
            self._reader.ended(WITHIN)

    def begin(self) -> None:
        """Start the process, which takes a while, ahead of the first question."""
        with suppress(OSError):  # the first question says why
            self._reader = self._started()

    def read(self, path: Path, who: Identity) -> bytes:
        """Return what a regular file of 1 MiB at most holds.

        It is opened as ``who``. Where that is refused, it is opened as the daemon's user, but only if no one but root
        and the daemon's user could have put it there.
        """
        return self._ask("read", path, who)[1]

    def mode(self, path: Path, who: Identity) -> int:
        """Return the mode of what is there, as ``who`` sees it."""
        return self._ask("mode", path, who)[0]

    def executable(self, path: Path, who: Identity) -> bool:
        """Return whether ``who`` may execute the file, or enter the directory."""
        return bool(self._ask("executable", path, who)[0])

    def writable(self, path: Path, who: Identity) -> bool:
        """Return whether the logger of ``who`` may write to a log file, or make it.

        ELOOP for a link, EINVAL for anything else that is no regular file.
        """
        return bool(self._ask("writable", path, who)[0])

    def _ask(self, operation: str, path: Path, who: Identity) -> tuple[int, bytes]:
        question = operation, path, who
        error, number, content = answer = self._looks.get(question) or self._answer(*question)
        if operation != "read":
            self._looks[question] = answer
        if error:
            raise OSError(error, os.strerror(error), os.fsdecode(content[: path_reader.LONGEST]) or None)
        return number, content

    def _answer(self, operation: str, path: Path, who: Identity) -> tuple[int, int, bytes]:
        """Return an errno, a number and content, as the process says them. Raises OSError."""
        hung = _hung.pop(path, None)
        if hung is not None and not hung.ended():
            raise self._timed_out(path, hung)
        self._reader = reader = self._reader or self._started()
        try:
            return reader.ask(operation, path, who)
        except (OSError, ValueError):
            self._reader = None
            reader.kill()
            raise self._timed_out(path, reader) from None

    def _started(self) -> _ReaderProcess:
        """Start the process. Raises OSError with an errno that no path has: nothing was found out about any."""
        try:
            return _ReaderProcess(self._program)
        except OSError as error:
            raise OSError(errno.ECHILD, f"{sys.executable} cannot be started to look at it: {error.strerror}") from None

    def _timed_out(self, path: Path, reader: _ReaderProcess) -> TimeoutError:
        self.hung = path
        if not reader.ended():
            _hung[path] = reader
        return TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

"""A connection to the daemon's control socket. Errors of sockets and HTTP become sentences here, and nowhere else."""

from __future__ import annotations

import errno
import http.client
import json
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from highlanderd.errors import (
    ConfigurationError,
    DaemonUnreachable,
    HighlanderError,
    NotPermitted,
    one_line,
    printable,
    refusal,
)
from highlanderd.system import ownership

PATIENCE: Final = 10.0
"""Seconds that an answer may take beyond what the daemon was asked to wait."""
SILENT_FOR: Final = 60.0
"""Seconds without a word of a daemon that streams: it gives a sign each ten seconds."""
AGAIN: Final = 0.05
"""Seconds until a daemon is asked again whose worker is being replaced."""
REPLACED: Final = (
    FileNotFoundError,
    ConnectionRefusedError,
    ConnectionResetError,
    BrokenPipeError,
    http.client.IncompleteRead,
)
"""What a client may see while a worker ends and the next one begins."""
LONGEST: Final = 1 << 26
"""Bytes of an answer that are read at most: thousands of programs with their last lines are some megabytes."""

Answer = dict[str, Any]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, patience: float) -> None:
        super().__init__("localhost")
        self._path = path
        self._patience = patience

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # With a timeout of Python's, a full backlog would fail at once instead of waiting
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(self._patience), 0))
        self.sock.connect(self._path)
        self.sock.settimeout(self._patience)


class _Request(NamedTuple):  # no dataclass: the module of that name takes a tenth of the start
    method: str
    resource: str
    body: str | None
    patience: float
    """Seconds for the whole of it."""


_JSON: Final = {"Content-Type": "application/json"}


class ControlClient:
    """The daemon that owns ``path``. Every failure is a HighlanderError.

    ``as_text``: answers are meant for people, and hold nothing that a terminal would do more with than show it.
    """

    def __init__(self, path: str, *, as_text: bool = False) -> None:
        self._path, self._as_text = path, as_text

    @property
    def lives(self) -> bool:
        """Whether the daemon lives, with or without a worker; False where that cannot be seen."""
        return ownership.taken(self._path)

    def ask(self, method: str, resource: str, body: Answer | None = None, patience: float = 0.0) -> Answer:
        """Return the answer to one request, for which the daemon may take ``patience`` seconds of its own."""
        return self.begin(method, resource, body, patience)()

    def detail(self, name: str) -> Answer:
        """Return everything about one program."""
        return self.ask("GET", f"/v1/programs/{quote(name, safe='')}")

    def order(self, name: str, verb: str, body: Answer, patience: float = 0.0) -> Callable[[], Answer]:
        """Send an order for one program; call the result for its answer."""
        return self.begin("POST", f"/v1/programs/{quote(name, safe='')}/{verb}", body, patience)

    def begin(
        self, method: str, resource: str, body: Answer | None = None, patience: float = 0.0
    ) -> Callable[[], Answer]:
        """Send a request; call the result for its answer. Many requests may be under way at once.

        While the daemon's worker is being replaced, the request waits for the next one.
        """
        request = _Request(method, resource, None if body is None else json.dumps(body), PATIENCE + patience)
        end = time.monotonic() + request.patience
        connection = self._send(request, end)
        return lambda: self._answer(connection, request, end)

    def stream(self, resource: str) -> Iterator[Answer]:
        """Return the objects of an answer that goes on, as they come. It ends when the daemon ends it."""
        request = _Request("GET", resource, None, PATIENCE)
        connection = self._send(request, time.monotonic() + PATIENCE)
        try:
            response = connection.getresponse()
            if response.status >= 400:
                raise _refusal(json.loads(response.read()))
            connection.sock.settimeout(SILENT_FOR)
            for line in response:
                if line.strip():
                    part = json.loads(line)
                    yield dict(_harmless(part) if self._as_text else part)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def _send(self, request: _Request, end: float) -> _UnixConnection:
        while True:
            connection = _UnixConnection(self._path, request.patience)
            try:
                connection.request(request.method, request.resource, request.body, _JSON if request.body else {})
            except OSError as error:
                connection.close()
                if not self._is_replaced(error, end):
                    raise self._unreachable(error) from error
                time.sleep(AGAIN)
            else:
                return connection

    def _is_replaced(self, error: Exception, end: float) -> bool:
        """Return whether the next worker is worth waiting for."""
        return isinstance(error, REPLACED) and time.monotonic() < end and self.lives

    def _answer(self, connection: _UnixConnection, request: _Request, end: float) -> Answer:
        while True:
            try:
                response = connection.getresponse()
                answer = json.loads(_content(response))
                break
            except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
                if request.method != "GET" or not self._is_replaced(error, end):  # an order may have been carried out
                    raise self._unreachable(error) from error
            finally:
                connection.close()
            time.sleep(AGAIN)
            connection = self._send(request, end)
        if response.status >= 400 or not isinstance(answer, dict):
            raise _refusal(answer)
        return dict(_harmless(answer) if self._as_text else answer)

    def _unreachable(self, error: Exception) -> HighlanderError:
        if isinstance(error, REPLACED) and self.lives:
            return DaemonUnreachable(self._closed(error))
        match error:
            case PermissionError():
                return NotPermitted(f"permission denied on {self._path}: {_who_may(Path(self._path))}")
            case FileNotFoundError():
                what = f"no daemon is running here: {self._path} does not exist"
            case ConnectionRefusedError():
                what = f"no daemon is running here: {self._path} was left behind by one that has ended"
            case TimeoutError() | BlockingIOError():
                return DaemonUnreachable(
                    f"the daemon on {self._path} does not answer: it is frozen or the machine is overloaded; "
                    "its log and 'systemctl status highlanderd' say more"
                )
            case OSError() if error.errno not in (errno.ECONNRESET, errno.EPIPE, None):
                return DaemonUnreachable(f"cannot connect to {self._path}: {error.strerror or error}; check --socket")
            case _:
                return DaemonUnreachable(
                    f"the daemon on {self._path} broke off before it answered: it has ended, or is no highlanderd"
                )
        return DaemonUnreachable(
            f"{what}. Start it with 'systemctl start highlanderd' or 'highlanderd -c FILE', "
            "or name its socket with --socket or HIGHLANDER_SOCKET"
        )

    def _closed(self, error: Exception) -> str:
        """Return what to say of a living daemon whose control socket does not serve."""
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            return (
                f"the daemon runs, but its control socket {self._path} is closed: no worker of it starts, or the "
                "socket cannot be opened; its log and 'systemctl status highlanderd' say why"
            )
        return (
            f"the daemon on {self._path} broke off before it answered: its worker has ended, and another one is "
            "started, or it has too many clients; 'highlanderctl status' shows whether the order was carried out"
        )


def _content(response: http.client.HTTPResponse) -> bytes:
    """Return the content. Raises IncompleteRead when the daemon broke off, or when it is too long."""
    content = response.read(LONGEST)
    if response.length:
        raise http.client.IncompleteRead(content, response.length)
    return content


def _harmless(answer: Any) -> Any:
    match answer:
        case str():
            return one_line(answer)
        case list():
            return [_harmless(item) for item in answer]
        case dict():
            return {one_line(key): _harmless(value) for key, value in answer.items()}
    return answer


def _refusal(answer: Any) -> HighlanderError:
    try:
        code, message = str(answer["error"]["code"]), printable(str(answer["error"]["message"]))
    except (KeyError, TypeError):
        return HighlanderError(f"the daemon answered what this highlanderctl does not understand: {answer!r:.200}")
    if code == ConfigurationError.code:
        return ConfigurationError(tuple(message.splitlines()))
    return refusal(code, message)


_NO_GROUP: Final = (
    "use sudo, or let a group in: name it in [control] group of the daemon's configuration, and restart the daemon"
)


def _who_may(path: Path) -> str:
    """Say which group may connect: that of the socket, or of the directory that hides it; root's is only root."""
    import grp  # for this message only

    for place, may in ((path, 0o060), *((parent, 0o010) for parent in path.parents)):
        try:
            found = place.stat()
        except PermissionError:
            continue
        except OSError:
            break
        if place != path and os.access(place, os.X_OK):
            break
        if found.st_gid == 0 or not found.st_mode & may:
            return f"{place} lets no group in; {_NO_GROUP}"
        try:
            group = grp.getgrgid(found.st_gid).gr_name
        except KeyError:
            group = str(found.st_gid)
        return f"it is for root and group {group!r}; use sudo, or 'usermod -aG {group} USER' and log in again"
    return "use sudo, or ask an administrator which group may command the daemon"

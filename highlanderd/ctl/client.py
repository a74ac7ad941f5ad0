"""A connection to the daemon's control socket. Errors of sockets and HTTP become sentences here, and nowhere else."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from highlanderd.ctl.ahead import STATUS
from highlanderd.ctl.exchange import PATIENCE, Exchange, Request, segment
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

AGAIN: Final = 0.05
"""Seconds until a daemon is asked again whose worker is being replaced."""
REPLACED: Final = (FileNotFoundError, ConnectionRefusedError, ConnectionResetError, BrokenPipeError)
"""What a client may see while a worker ends and the next one begins."""

Answer = dict[str, Any]


class ControlClient:
    """The daemon that owns ``path``. Every failure is a HighlanderError.

    ``as_text``: answers are meant for people, and hold nothing that a terminal would do more with than show it.
    ``send`` makes an exchange of a request; it raises OSError.
    """

    def __init__(
        self, path: str, *, as_text: bool = False, send: Callable[[str, Request], Exchange] = Exchange
    ) -> None:
        self._path, self._as_text, self._send = path, as_text, send

    @property
    def lives(self) -> bool:
        """Whether the daemon lives, with or without a worker; False where that cannot be seen."""
        return ownership.taken(self._path)

    def ask(self, method: str, resource: str, body: Answer | None = None, patience: float = 0.0) -> Answer:
        """Return the answer to one request, for which the daemon may take ``patience`` seconds of its own."""
        return self.begin(method, resource, body, patience)()

    def status(self, wait: float | None = None, patience: float = 0.0) -> Answer:
        """Return the node and its programs, after the next change, or ``wait`` seconds, if that is given."""
        after = "" if wait is None else f"&wait={wait:.3f}"
        return self.ask("GET", STATUS + after, patience=patience)

    def detail(self, name: str) -> Answer:
        """Return everything about one program."""
        return self.ask("GET", f"/v1/programs/{segment(name)}")

    def order(self, name: str, verb: str, body: Answer, patience: float = 0.0) -> Callable[[], Answer]:
        """Send an order for one program; call the result for its answer."""
        return self.begin("POST", f"/v1/programs/{segment(name)}/{verb}", body, patience)

    def begin(
        self, method: str, resource: str, body: Answer | None = None, patience: float = 0.0
    ) -> Callable[[], Answer]:
        """Send a request; call the result for its answer. Many requests may be under way at once.

        While the daemon's worker is being replaced, the request waits for the next one.
        """
        request = Request(method, resource, None if body is None else json.dumps(body), PATIENCE + patience)
        end = time.monotonic() + request.patience
        exchange = self._sent(request, end)
        return lambda: self._answer(exchange, request, end)

    def stream(self, resource: str) -> Iterator[Answer]:
        """Return the objects of an answer that goes on, as they come. It ends when the daemon ends it."""
        exchange = self._sent(Request("GET", resource, None, PATIENCE), time.monotonic() + PATIENCE)
        try:
            status = exchange.status()
            for line in exchange.lines() if status < 400 else [exchange.content()]:
                if line.strip():
                    yield self._understood(status, line)
        except (OSError, ValueError, RecursionError) as error:
            raise self._unreachable(error) from error
        finally:
            exchange.close()

    def _sent(self, request: Request, end: float) -> Exchange:
        while True:
            try:
                return self._send(self._path, request)
            except OSError as error:
                self._await_worker(error, end)

    def _await_worker(self, error: Exception, end: float) -> None:
        """Wait a moment for the next worker. Raises HighlanderError where none is worth waiting for."""
        if not (isinstance(error, REPLACED) and time.monotonic() < end and self.lives):
            raise self._unreachable(error) from error
        time.sleep(AGAIN)

    def _answer(self, exchange: Exchange, request: Request, end: float) -> Answer:
        while True:
            try:
                return self._understood(exchange.status(), exchange.content())
            except (OSError, ValueError, RecursionError) as error:
                if request.method != "GET":  # an order may have been carried out
                    raise self._unreachable(error) from error
                self._await_worker(error, end)
            finally:
                exchange.close()
            exchange = self._sent(request, end)

    def _understood(self, status: int, content: bytes) -> Answer:
        """Return what was answered. Raises HighlanderError for a refusal, and ValueError for what is no JSON."""
        text = content.decode()
        answer = json.loads(text)
        if status >= 400 or not isinstance(answer, dict):
            raise _refusal(answer)
        if not self._as_text or ("\\" not in text and text.rstrip("\n").isprintable()):
            return answer
        return dict(_harmless(answer))

    def _unreachable(self, error: Exception) -> HighlanderError:
        if isinstance(error, REPLACED) and self.lives:
            return DaemonUnreachable(self._closed(error))
        match error:
            case PermissionError():
                return NotPermitted(f"permission denied on {self._path}: {_who_may(self._path)}")
            case FileNotFoundError():
                what = f"no daemon is running here: {self._path} does not exist"
            case ConnectionRefusedError() if not _is_socket(self._path):
                return DaemonUnreachable(f"{self._path} is no socket; check --socket and HIGHLANDER_SOCKET")
            case ConnectionRefusedError():
                what = f"no daemon is running here: {self._path} was left behind by one that has ended"
            case TimeoutError() | BlockingIOError():
                return DaemonUnreachable(
                    f"the daemon on {self._path} does not answer: it is frozen or the machine is overloaded; "
                    "its log and 'systemctl status highlanderd' say more"
                )
            case ValueError() | RecursionError():
                return DaemonUnreachable(
                    f"the daemon on {self._path} answered what this highlanderctl does not understand: "
                    f"{one_line(str(error)):.200}; it is no highlanderd, check --socket"
                )
            case OSError() if not isinstance(error, ConnectionError):
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


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)  # noqa: PTH116  # pathlib takes long to import
    except OSError:
        return True  # it has gone, as a socket does


def _who_may(socket: str) -> str:
    """Say which group may connect: that of the socket, or of the directory that hides it; root's is only root."""
    import grp  # for this message only
    from pathlib import Path

    path = Path(socket)
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

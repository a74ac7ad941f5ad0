"""What a command asks first, asked before anything else is imported: the daemon computes the answer meanwhile.

The command line is only looked at here, and understood later. A question that the command then does not begin with is
dropped, so it may be any that changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from highlanderd.ctl.exchange import PATIENCE, Exchange, Request

DEFAULT_SOCKET = "/run/highlander/control.sock"
CLUSTER = "/v1/cluster"
MEASURED = "/v1/status"
STATUS = f"{MEASURED}?usage=false"
"""What children use is not looked at for it."""
BEGINNINGS = {
    **dict.fromkeys(("cluster", "list"), CLUSTER),
    **dict.fromkeys(("is-leading", "pid", "release", "restart", "signal", "start", "status", "stop"), STATUS),
}
"""By command: what it asks first."""
OTHERWISE = ("-h", "--help", "-o", "--output", "--on", "--socket", "--dsn", "--config")
"""Options with which it may ask something else, somebody else, or nobody."""


class Ahead:
    """A question that was sent before the command was understood. The command takes it over if it asks the same."""

    def __init__(self, path: str, request: Request) -> None:
        self._path, self._request = path, request
        self._sent: Exchange | OSError | None
        try:
            self._sent = Exchange(path, request)
        except OSError as error:
            self._sent = error

    def send(self, path: str, request: Request) -> Exchange:
        """Return the exchange of a request: the one that was begun, if the first request is for the same.

        Its patience begins now: imports may have taken long. Raises OSError.
        """
        sent, self._sent = self._sent, None
        same = (path, request.method, request.resource) == (self._path, self._request.method, self._request.resource)
        if same and isinstance(sent, OSError):
            raise sent
        if same and isinstance(sent, Exchange):
            sent.extend(request.patience)
            return sent
        if isinstance(sent, Exchange):
            sent.close()
        return Exchange(path, request)


def asked(words: Sequence[str]) -> Ahead | None:
    """Ask what a command line begins with; None where that is not plain to see."""
    path, rest = default_socket(), [*words]
    while rest[:1] == ["--socket"] and rest[1:]:
        path, rest = rest[1], rest[2:]
    resource = BEGINNINGS.get(rest[0]) if rest else None
    if resource is None or any(word.startswith(OTHERWISE) for word in rest):
        return None
    if rest[0] == "status" and "--json" in rest:  # a table has no column of what children use
        resource = MEASURED
    return Ahead(path, Request("GET", resource, None, PATIENCE))


def default_socket() -> str:
    """Return the socket of a command line that names none."""
    return os.environ.get("HIGHLANDER_SOCKET") or DEFAULT_SOCKET

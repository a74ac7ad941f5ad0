"""What the body of an order may say: a few fields, each of its own kind, wherever the order came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from highlanderd.api import LONGEST_REASON, MOST_LINES
from highlanderd.config.values import any_signal, label
from highlanderd.errors import BadRequest
from highlanderd.listeners import leases
from highlanderd.listeners.orders import ORDERS

WAITING: Final = ("wait", "timeout")
"""Fields that say whether a client waits for the outcome, and how long."""
LONGEST_WAIT: Final = 86_400.0
"""Seconds for which one request may wait; a wait has an end."""
MOST_NODES: Final = 1000
"""In one request; far more than share a ledger."""


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LONGEST_WAIT


def _is_node(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(label(value))
    except ValueError:
        return False


def _is_signal(value: object) -> bool:
    try:
        return bool(any_signal(value))
    except ValueError:
        return False


_Check = tuple[Callable[[object], bool], str]
_FLAG: Final[_Check] = (lambda value: isinstance(value, bool), "true or false")

_CHECKS: Mapping[str, _Check] = {
    "wait": _FLAG,
    "dry_run": _FLAG,
    "timeout": (_is_seconds, f"a number of seconds from 0 to {LONGEST_WAIT:g}"),
    "for": (_is_seconds, f"a number of seconds from 0 to {LONGEST_WAIT:g}"),
    "lease": (_is_seconds, "a number of seconds"),
    "on": _FLAG,
    "everywhere": _FLAG,
    "nodes": (
        lambda value: isinstance(value, list) and 0 < len(value) <= MOST_NODES and all(map(_is_node, value)),
        f"an array of 1 to {MOST_NODES} names of nodes",
    ),
    "tree": _FLAG,
    "n": (lambda value: type(value) is int and 0 < value <= MOST_LINES, f"a number of lines from 1 to {MOST_LINES}"),
    "signal": (_is_signal, 'the name or number of a signal, such as "HUP", "RTMIN+1" or 10'),
    "force": _FLAG,
    "node": (_is_node, "the name of a node, as [daemon] node may be"),
    "reason": (leases.is_reason, f"one line of printable text, of at most {LONGEST_REASON} characters"),
    "to": (lambda value: value is None or _is_node(value), "the name of a node, as [daemon] node may be"),
}


WANTED: Mapping[str, str] = {name: wanted for name, (_, wanted) in _CHECKS.items()}
"""What each field of a body must be, in words."""

FIELDS: Mapping[str, tuple[str, ...]] = {
    "/v1/ledger/lease": ("lease", "force", "reason", *WAITING),
    "/v1/ledger/migrate": (),
    "/v1/maintenance": ("on", "reason", *leases.OF_MAINTENANCE, *WAITING),
    "/v1/drain": ("nodes", "reason", "force", *WAITING),
    "/v1/resume": ("nodes", "reason", *WAITING),
    "/v1/reload": ("dry_run", "force", "reason", *WAITING),
    "/v1/renew": ("force",),
    "/v1/shutdown": ("reason",),
    "/v1/programs/{name}/reopen": (),
    **{f"/v1/programs/{{name}}/{verb}": (*WAITING, "reason", "node", *order.fields) for verb, order in ORDERS.items()},
}
"""What the body of each order may say, by the path of its route."""


def checked(body: object, allowed: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields of an order, each checked, wherever it came from. Raises BadRequest."""
    if not isinstance(body, dict):
        raise BadRequest('the body must be a JSON object, such as {"wait": true}')
    for name, value in body.items():
        if name not in allowed:
            raise BadRequest(f"unknown field {name!r}: this request takes {', '.join(allowed) or 'no fields'}")
        check, wanted = _CHECKS[name]
        if not check(value):
            raise BadRequest(f"{name!r} must be {wanted}")
    return body

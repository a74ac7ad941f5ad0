"""What the pool believes of its server, and how quickly it probes a server that is in doubt.

Untried    No attempt has ended yet.
Up         The latest attempt succeeded.
Suspected  A session was lost. Perhaps only that connection is gone, perhaps the server is: probes find out.
Down       An attempt failed, or the server said no. Probes go on.

Untried, Up --a session was lost--> Suspected     Untried, Up, Suspected, Down --an attempt failed--> Down
Untried, Suspected, Down --an attempt succeeded--> Up
"""

from __future__ import annotations

from typing import ClassVar, Final

from msgspec import Struct

from highlanderd.core.lease import Lease

PROBE_EVERY: Final = 0.2
"""Seconds between probes while a leader's lease may still be saved, when the lease is 10 s or shorter."""
SLOW_PROBE_EVERY: Final = 1.0
"""Seconds between probes when no lease can be saved, and to a server that said no."""
SLOW_AFTER: Final = 5.0
"""Seconds of outage after which probes are slow while no client has a lease at stake."""
PROBES: Final = 10
"""Probes under way at once: each ends after a fifth of a lease at the latest."""


class Untried(Struct, frozen=True):
    """No attempt to connect has ended yet."""

    last_error: ClassVar = "not connected yet"


class Up(Struct, frozen=True):
    """The latest attempt succeeded, and no session was lost since."""

    last_error: ClassVar = ""


class Suspected(Struct, frozen=True):
    """A session was lost, and no attempt has ended since."""

    last_error: ClassVar = ""

    since: float
    """On the loop's clock, as all times here."""


class Down(Struct, frozen=True):
    """An attempt to connect has failed since the latest success."""

    since: float
    last_error: str
    """The latest failure."""
    refused: bool
    """The server answered, and said no; no other attempt that may do better is under way."""


ServerState = Untried | Up | Suspected | Down


def pause(state: Suspected | Down, now: float, lease: Lease, *, lease_at_stake: bool) -> float:
    """Return the seconds between two probes.

    ``now`` is on the loop's clock, ``lease`` the ledger's. ``lease_at_stake`` says that a client may still save one.
    """
    refused = isinstance(state, Down) and state.refused
    if refused or (now - state.since > SLOW_AFTER and not lease_at_stake):
        return SLOW_PROBE_EVERY
    # So spaced, the ten attempts that a dead network swallows end as fast as new ones may begin.
    return max(PROBE_EVERY, lease.renew_every / PROBES)

"""What a fault is, and the registry of all of them.

A bound is what docs/explanation/promise.md says of the event, as a function of the lease.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.nodes import Node

    from .bed import Bed

MODULES = (
    "faults_network",
    "faults_processes",
    "faults_postgres",
    "faults_ledger",
    "faults_orders",
    "faults_lengths",
    "faults_clock",
    "faults_settings",
    "faults_failover",
    "faults_disk",
)
"""Where the faults are. Each enters its own with ``@fault``."""


class Missed(Exception):
    """There was nothing to do it to, because another fault has been there already. It does not count."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The longest gap: so many leases, so many seconds, and perhaps as long as the fault itself lasts."""

    leases: float = 0.0
    seconds: float = 0.0
    lasting: bool = False

    def limit(self, lease: float, lasted: float) -> float:
        """Return it in seconds."""
        return self.leases * lease + self.seconds + (lasted if self.lasting else 0.0)

    def __str__(self) -> str:
        parts = ["its length"] * self.lasting
        parts += [f"{self.leases:g} L"] * bool(self.leases) + [f"{self.seconds:g} s"] * bool(self.seconds)
        return " + ".join(parts) or "0"


@dataclass(frozen=True, slots=True)
class Strike:
    """What was done, to which nodes, and how to undo it. Undoing must not mind what other faults have done since."""

    what: str
    nodes: Sequence[Node]
    undo: Callable[[], object] = lambda: None
    since: float = 0.0
    """When it took effect, on CLOCK_BOOTTIME, where finding the moment took a while."""


Striking = Callable[["Bed", Random], Strike]


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault: a row of the table."""

    name: str
    strike: Striking = field(repr=False)
    bound: Bound
    """The longest gap of a program that a concerned node led."""
    lasts: tuple[float, float] = (0.0, 0.0)
    """Leases between striking and undoing, at least and at most."""
    spares: bool = False
    """Whether it costs no child at all, as long as it is over within ``borne``. The bound is for longer ones."""
    needs: tuple[str, ...] = ()
    """What the bed must have: see ``Bed.lacks``."""
    spends: bool = False
    """Whether the bed is thrown away after the round."""
    alone: bool = False
    """Whether it stays out of rounds with many faults at once: two of the kind add up to what is not promised."""
    servers: int = 1
    """2 for a bed with a hot standby, whose nodes know both servers."""
    doubling: str = ""
    """The stated exception under which two children may live at once; the table in PostgreSQL holds even then."""
    losing: str = ""
    """The stated exception under which acknowledged commits may be lost. Both exceptions spend the bed, too."""
    together: Bound | None = None
    """How long two children may live at once under ``doubling``, where that is promised."""
    borne: float = 0.4
    """Leases that it may last and cost no child, if it ``spares``."""
    stretch: float = 1.0
    """How many times longer than the bed's the leases may be meanwhile, and with them every bound."""

    @property
    def crowded(self) -> bool:
        """Whether it may be one of many at once."""
        return not (self.alone or self.spends or self.doubling or self.losing)


_entered: dict[str, Fault] = {}


def fault(
    name: str,
    bound: Bound,
    *,
    lasts: tuple[float, float] = (0.0, 0.0),
    spares: bool = False,
    needs: tuple[str, ...] = (),
    spends: bool = False,
    alone: bool = False,
    servers: int = 1,
    doubling: str = "",
    losing: str = "",
    together: Bound | None = None,
    borne: float = 0.4,
    stretch: float = 1.0,
) -> Callable[[Striking], Striking]:
    """Enter a function as a fault."""

    def enter(strike: Striking) -> Striking:
        assert name not in _entered, name
        stated = (doubling, losing, together)
        more = (borne, stretch)
        _entered[name] = Fault(name, strike, bound, lasts, spares, needs, spends, alone, servers, *stated, *more)
        return strike

    return enter


def registry() -> dict[str, Fault]:
    """Return every fault by its name, in the order of the table."""
    for module in MODULES:
        import_module(f".{module}", __package__)
    return _entered

"""What a program needs of its session, its child and the one who counts: a Protocol each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from highlanderd.children.checks import ProbedChild
from highlanderd.core.effects import Occasion, Release, Spawn
from highlanderd.core.events import Event
from highlanderd.core.lease import Lease
from highlanderd.core.observation import Glimpse, ServerIdentity
from highlanderd.core.schedule import Change
from highlanderd.core.states import Ready, Running
from highlanderd.core.verdict import Claim, Settle


class LockSession(Protocol):
    """The program's lock connection."""

    @property
    def undivided(self) -> bool:
        """Whether no other program uses it, too: then a takeover can be asked at once."""

    @property
    def glimpse(self) -> Glimpse | None:
        """What surveys have shown of the row; None for nothing."""

    def open(self) -> None:
        """Begin to look for a connection."""

    def close(self) -> None:
        """End it."""

    def note_known(self, number: int | None) -> None:
        """Take in that the machine knows of this session now; of none, once it has read of a loss."""

    def note_stake(self, lease_end: float) -> None:
        """Take in when the lease ends that hangs on a connection; infinity for no lease."""

    def refuse(self, why: str) -> None:
        """Drop the present one: its server must not be used."""

    def look(self) -> None:
        """See what the ledger shows."""

    def write_settled(self, settle: Settle) -> None:
        """Write that a lease was waited out."""

    def take_over(self, claim: Claim) -> bool:
        """Try to begin a term. Return whether a child may be prepared meanwhile."""

    def write_timetable(self, change: Change) -> None:
        """Write what becomes of scheduled times."""

    def close_terms(self, claim: Claim) -> None:
        """Close terms that are over, and begin none."""

    def unsettle(self, server: ServerIdentity) -> None:
        """Have every node wait out the leases once more."""

    def renew(self, epoch: int, lease: Lease) -> None:
        """Prolong the term under a lease."""

    def release(self, ending: Release) -> None:
        """End the term."""


class ProgramChild(ProbedChild, Protocol):
    """The program's child of one term."""

    @property
    def pid(self) -> int | None:
        """Its main process, once it was forked."""

    @property
    def number(self) -> int:
        """The number that names its cgroup; 0 before it is known."""

    @property
    def unprovable(self) -> str:
        """Why neither keeper nor guardian can prove any more that its tree is empty; empty where one can."""

    @property
    def killed_at(self) -> float | None:
        """When its tree first got SIGKILL."""

    @property
    def unkillable(self) -> tuple[int, ...]:
        """Its processes that SIGKILL has not ended for a while."""

    @property
    def missing_limits(self) -> str | None:
        """Which limits by cgroup do not hold for it, and why: empty when all do, None when nothing says so."""

    def signal(self, signum: int, to: Literal["tree", "main"]) -> None:
        """Send a signal to its tree or its main process."""

    @property
    def keeper_pid(self) -> int | None:
        """The process below which all of its processes are."""

    def kill(self, *, after: bool = False) -> None:
        """SIGKILL to the tree until it is empty; with ``after``, ``after_stop`` may run then."""

    def run_hook(self, name: str) -> None:
        """Run a hook while the program runs."""

    def end(self, cause: str, *, announced: bool) -> None:
        """Say why the term ends, for hooks; ``announced``: ``before_stop`` runs before the next signal."""

    def set_deadline(self, deadline: float, memo: bytes) -> None:
        """Move its keeper's deadline, and replace the memo that the keeper has for the next worker."""


class ChildSpawner(Protocol):
    """What a program has its children started by."""

    def prepare(self, asked: Spawn, occasion: Occasion) -> None:
        """Prepare all but the execution: this child may be wanted within milliseconds, with other times."""

    def discard(self) -> None:
        """End what was prepared, if no child was started since: no term has begun."""

    def __call__(self, effect: Spawn, memo: bytes, post: Callable[[Event], None], cause: str = "") -> ProgramChild:
        """Start the one child of a term; ``post`` is called with its events. ``cause`` is why the last term ended."""


class ChildProber(Protocol):
    """Finds out whether the program's child is ready, and whether it is well."""

    def follow(
        self, child: ProgramChild | None, running: Running | Ready | None, post: Callable[[Event], None]
    ) -> None:
        """Ask this child, and post what is found; nobody while none is running."""

    def stop(self) -> None:
        """Ask nobody any more."""


class Recorder(Protocol):
    """Counts what happens to programs."""

    def transition(self, program: str, old: str, new: str) -> None:
        """A state was left for another."""

    def exited(self, program: str, status: int) -> None:
        """The child's main process ended with this wait status."""

    def exit_failed(self, program: str, status: int) -> None:
        """It ended so without having done its work, and nobody had ordered its end."""

    def term_ended(self, program: str, cause: str) -> None:
        """A term ended."""

    def skipped(self, program: str, reason: str, times: int) -> None:
        """Scheduled times were skipped for this reason."""

    def took_over(self, seconds: float) -> None:
        """A child was started so many seconds after its term was granted."""

    def leaderless(self, seconds: float) -> None:
        """A term began so many seconds after the last one had ended, on any node."""

    def stopped(self, seconds: float) -> None:
        """A tree was empty so many seconds after it was ordered to stop."""

    def renewed(self, seconds: float) -> None:
        """A renewal was acknowledged so many seconds after it was sent."""

    def renew_failed(self) -> None:
        """A session was lost while leading."""

    def reattached(self) -> None:
        """A lock was taken back within its lease."""

"""What this daemon says of itself in the ledger: which programs it has, and which of them it could lead now."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Final

from highlanderd import __version__
from highlanderd.config import ProgramConfig, difference, lacks_now
from highlanderd.core.cluster import CandidatePresence, NodePresence
from highlanderd.errors import HighlanderError
from highlanderd.system.linux import boottime
from highlanderd.threads import in_thread
from highlanderd.worker.fleet import Fleet
from highlanderd.worker.member import Member
from highlanderd.worker.snapshot import is_ready, wall

DIGITS: Final = 4
"""Hexadecimal digits of a digest. A value may be a secret, and so few digits fit any number of guesses."""
HOST_EVERY: Final = 60.0
"""Seconds between two looks at what this host lacks."""
LOOK_WITHIN: Final = 3.0
"""Seconds that a look at the host may take while an operator waits for it. A busy machine has taken longer than one."""
LONGEST_REASON: Final = 300
"""Characters: a sentence."""
_PARTS: Final[Mapping[str, tuple[str, ...]]] = {"command": ("command", "argv")}
"""By key of the file: the fields that its value is kept in, where that is not one of the same name."""


class WorkerPresence:
    """Makes the presence of this node from what lives on it."""

    def __init__(
        self, name: str, instance: str, advertise: str | None, fleet: Fleet, environ: Mapping[str, str]
    ) -> None:
        """``advertise`` is where others reach this node; ``environ`` is where the host is looked for commands in."""
        self._name, self._instance, self._advertise = name, instance, advertise
        self._fleet, self._environ = fleet, environ
        self._lacking: Mapping[str, str] = {}
        """By program: what this host lacks for it, as it was found last."""
        self._looks: dict[str, asyncio.Future[dict[str, str]]] = {}
        """By program: the look at the host that an operator waits for. A file system that hangs holds up one each."""
        self._started = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._since: dict[str, tuple[float, str]] = {}
        """By program: when its state was entered, by CLOCK_BOOTTIME and as it was written. The clocks drift apart."""
        self._digests: dict[str, tuple[ProgramConfig, Mapping[str, str]]] = {}

    async def watch_host(self, change: Callable[[], asyncio.Event], changed: Callable[[], None]) -> None:
        """Look again and again what this host lacks, until cancelled; ``changed`` is called when that has changed.

        So a standby that could not start a program is known before it is needed. A file system that hangs holds up
        nothing but this. ``change`` returns what is set at the next change: a reload is followed by a look.
        """
        while True:
            wanted = self._fleet.wanted
            look = partial(lacks_now, tuple(wanted.values()), self._environ)
            with suppress(OSError, HighlanderError):
                before, self._lacking = self._lacking, await in_thread(look, "look at the host")
                if before != self._lacking:
                    changed()
            with suppress(TimeoutError):
                async with asyncio.timeout(HOST_EVERY):
                    while self._fleet.wanted is wanted:
                        await change().wait()

    def now(self) -> NodePresence:
        """Return what is true now."""
        programs = tuple(self._candidate(member) for member in self._fleet.members.values())
        names = None if self._fleet.ending else tuple({**self._fleet.wanted, **self._fleet.members})
        return NodePresence(self._name, self._instance, __version__, self._advertise, self._started, programs, names)

    def _candidate(self, member: Member) -> CandidatePresence:
        name, hindrance = member.program.name, self.hindrance(member)
        return CandidatePresence(
            program=name,
            lock_id=member.lock_id,
            state=member.program.state,
            able=not hindrance,
            reason=_sentence(hindrance or member.program.situation.reason),
            ready=is_ready(member),
            since=self._entered(name, member.program.entered),
            digests=self._digests_of(member.spawner.config),
        )

    def hindrance(self, member: Member) -> str:
        """Return why this node could not lead a program now; empty when it could, or does."""
        program = member.program
        if program.state in ("stopped", "backoff", "draining"):
            return program.situation.reason or program.state
        if program.state == "waiting" and not member.session.connected:
            return program.situation.reason or "no session with PostgreSQL"
        return self._lacking.get(program.name, "")

    async def hindrance_now(self, member: Member) -> str:
        """Return the same after a look at the host: it may lack what it had before a reload, or a minute ago."""
        if why := self.hindrance(member):
            return why
        config = member.spawner.config
        look = self._looks.get(config.name)
        if look is None or look.done():
            look = in_thread(partial(lacks_now, (config,), self._environ), "look at the host")
            self._looks[config.name] = look
        try:
            async with asyncio.timeout(LOOK_WITHIN):
                return (await asyncio.shield(look)).get(config.name, "")
        except TimeoutError:
            return "a file system that it needs there does not answer"
        except (OSError, HighlanderError) as error:
            return str(error)

    def _entered(self, name: str, entered: float) -> str:
        known = self._since.get(name)
        if known is None or known[0] != entered:
            known = self._since[name] = entered, wall(entered, boottime())
        return known[1]

    def _digests_of(self, config: ProgramConfig) -> Mapping[str, str]:
        known = self._digests.get(config.name)
        if known is None or known[0] is not config:
            known = self._digests[config.name] = config, digests(config)
        return known[1]


def _sentence(text: str) -> str:
    """Return text that PostgreSQL can store: errors quote what others have said."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()[:LONGEST_REASON]


def digests(config: ProgramConfig) -> dict[str, str]:
    """Return, by key that is not as by default, a digest of its value: nodes compare them, and show no value."""
    default = ProgramConfig(name=config.name, command=("-",))
    keys = difference(default, config)
    return {key: _digest(*(_plain(getattr(config, part)) for part in _PARTS.get(key, (key,)))) for key in keys}


def _plain(value: object) -> str:
    """Return a value as text that is equal on two nodes exactly if the value is."""
    if isinstance(value, Mapping):
        return repr(sorted((str(key), _plain(one)) for key, one in value.items()))
    if isinstance(value, list | tuple | set | frozenset):
        return repr([_plain(one) for one in value])
    secret = getattr(value, "get_secret_value", None)
    return repr(value if secret is None else secret())


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:DIGITS]

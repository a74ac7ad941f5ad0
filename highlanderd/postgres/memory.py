"""What a node has seen of servers and ledgers, kept in its state directory, so that it never follows an older one.

There are three files, because an administrator who restores a server on purpose removes the one with the timelines:
epochs must not come again then, either, and what was promised still counts. All of them only make the node more
careful. A file that cannot be read or written is logged; it is no error.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from msgspec.structs import asdict

from highlanderd.core.knowledge import Knowledge
from highlanderd.core.lease import LONGEST, SHORTEST
from highlanderd.core.promise import Promise, Promises

log = logging.getLogger(__name__)

Known = TypeVar("Known")

TIMELINES: Final = "timelines"
GENERATION: Final = "generation"
PROMISE: Final = "promise"
"""The three facts; the files of the last two have their names."""

HIGHEST: Final = 2**31 - 1
"""The highest timeline and generation: more would not fit into an epoch."""

NONSENSE: Final = (ValueError, TypeError, LookupError, ArithmeticError, RecursionError, AttributeError)
"""What is raised when a file or a handover holds something else than was written."""

LONGEST_FILE: Final = 64 * 1024
"""Bytes of a file that are read at most: the first holds an entry for each database system that the node has met."""


class NodeMemory:
    """The highest timeline of each system, the generation (the upper half of the highest epoch), and the promise."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._timelines: dict[str, int] = {}
        self.generation = -1
        """-1 until an epoch was seen."""
        self._promises = Promises()
        self._kept: dict[Path, bytes] = {}
        self._last_error = ""
        if path is not None:
            self._load(path)

    @property
    def timelines(self) -> Mapping[str, int]:
        """By system identifier: the highest timeline seen."""
        return self._timelines

    def timeline(self, system: str) -> int:
        """Return the highest timeline of a system; 0 for one that was never met."""
        return self._timelines.get(system, 0)

    def learn_timeline(self, system: str, timeline: int) -> bool:
        """Learn of a timeline; return whether it is higher than any before."""
        if timeline <= self.timeline(system):
            return False
        self._timelines[system] = timeline
        return True

    def learn_epoch(self, epoch: int) -> None:
        """Learn of an epoch; 0 is none."""
        if epoch:
            self.generation = max(self.generation, epoch >> 32)

    @property
    def promise(self) -> Promise | None:
        """The longest lease to wait for, and whose it was; None before any ledger was seen."""
        return self._promises.kept

    @property
    def binding(self) -> float:
        """Seconds: the lease that a ledger which has not settled must make all nodes wait for; 0 for none."""
        return 0.0 if self.promise is None or self._promises.superseded else self.promise.ceiling

    def learn_promise(self, found: Promise, at: float, *, settled: bool) -> None:
        """Learn what a ledger says at ``at``, CLOCK_BOOTTIME in seconds."""
        self._promises = self._promises.after(found, at, settled=settled)

    def knowledge(self) -> Knowledge:
        """Return what a program's sessions know before the first look."""
        return Knowledge() if self.promise is None else self.promise.knowledge()

    def facts(self) -> dict[str, Any]:
        """Return everything known, for the next worker."""
        promise = None if self.promise is None else asdict(self.promise)
        return {TIMELINES: dict(self._timelines), GENERATION: self.generation, PROMISE: promise}

    def inherit(self, facts: Mapping[str, Any]) -> None:
        """Learn what a former worker knew. It may have been of another version, and have known less."""
        self._know(
            _part(facts, TIMELINES, _timelines), _part(facts, GENERATION, _generation), _part(facts, PROMISE, _promise)
        )

    def _know(self, timelines: Mapping[str, int] | None, generation: int | None, promise: Promise | None) -> None:
        for system, timeline in (timelines or {}).items():
            self.learn_timeline(system, timeline)
        if generation is not None:
            self.generation = max(self.generation, generation)
        if promise is not None:
            self._promises = Promises(promise)

    @property
    def unkept(self) -> bool:
        """Whether there is something that the files do not hold."""
        return any(self._kept.get(path) != text for path, text in self._texts().items())

    @property
    def trouble(self) -> str:
        """Why the files could not be written the last time; empty if they could."""
        return self._last_error

    def _texts(self) -> dict[Path, bytes]:
        if self._path is None:
            return {}
        facts = self.facts()
        files = {self._path: {TIMELINES: facts[TIMELINES]}}
        files |= {self._path.with_name(name): facts[name] for name in (GENERATION, PROMISE) if facts[name] is not None}
        return {path: json.dumps(fact).encode() for path, fact in files.items()}

    def keep(self) -> None:
        """Write them. May wait for a disk: never call it on the event loop."""
        for path, text in self._texts().items():
            if self._kept.get(path) != text:
                self._write(path, text)

    def _write(self, path: Path, text: bytes) -> None:
        new = path.with_name(f"{path.name}.new")
        try:
            new.unlink(missing_ok=True)
            file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(file, "wb") as writer:
                writer.write(text)
                writer.flush()
                os.fsync(file)
            new.rename(path)
            _sync_directory(path.parent)
        except OSError as error:
            if str(error) != self._last_error:
                log.warning("cannot write %s, which this node recognises an old server by: %s", new, error)
            self._last_error = str(error)
        else:
            self._kept[path], self._last_error = text, ""

    def _load(self, path: Path) -> None:
        self._know(
            self._read(path, lambda file: _timelines(file[TIMELINES])),
            self._read(path.with_name(GENERATION), _generation),
            self._read(path.with_name(PROMISE), _promise),
        )

    def _read(self, path: Path, meaning: Callable[[Any], Known]) -> Known | None:
        """Return what a file holds; None when it is not there or makes no sense."""
        try:
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as file:
                text = file.read(LONGEST_FILE)
            known = meaning(json.loads(text))
        except FileNotFoundError:
            return None
        except (OSError, *NONSENSE) as error:
            log.warning("cannot read %s (%s): going on without what it held", path, error)
            return None
        self._kept[path] = text
        return known


def _sync_directory(directory: Path) -> None:
    """Make a rename survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _part(facts: Mapping[str, Any], name: str, meaning: Callable[[Any], Known]) -> Known | None:
    """Return what a handover says of ``name``; None when that is missing or makes no sense."""
    try:
        return None if facts.get(name) is None else meaning(facts[name])
    except NONSENSE as error:
        log.error("what the last worker knew of servers and ledgers cannot be used: %s: %r", name, error)
        return None


def _timelines(fact: Any) -> dict[str, int]:
    return {str(system): _bounded(timeline) for system, timeline in fact.items()}


def _generation(fact: Any) -> int:
    return _bounded(fact, lowest=-1)


def _bounded(number: Any, *, lowest: int = 0) -> int:
    if not lowest <= int(number) <= HIGHEST:
        raise ValueError(f"{number} is not within {lowest} and {HIGHEST}")
    return int(number)


def _promise(fact: Any) -> Promise:
    system, timeline, place = int(fact["system"]), _bounded(fact["timeline"]), str(fact["place"])
    lease, ceiling = float(fact["lease"]), float(fact["ceiling"])
    if not SHORTEST <= lease <= LONGEST:
        raise ValueError(f"no ledger has a lease of {lease} seconds")
    return Promise(system, timeline, place, ceiling, lease)

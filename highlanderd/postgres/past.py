"""What a node has seen of servers, kept in its state directory: an old primary must not lead it back.

There are two files, because who restores a server on purpose removes the one with the timelines: epochs must not come
again then, either. Both are advice that only makes the node more careful: what cannot be read or written is said, and
no error.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

log = logging.getLogger(__name__)

Known = TypeVar("Known")

GENERATION: Final = "generation"
"""The name of the second file, beside the first."""

LONGEST = 64 * 1024
"""Bytes of a file that are read: the first holds a line for each database system that the node has ever met."""


class Past:
    """The highest timeline of each system, and the generation of epochs: the upper half of the highest one seen."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._timelines: dict[str, int] = {}
        self.generation = -1
        """-1 until an epoch was seen."""
        self._kept: dict[Path, bytes] = {}
        self._trouble = ""
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
        """Know of a timeline; return whether it is higher than any before."""
        if timeline <= self.timeline(system):
            return False
        self._timelines[system] = timeline
        return True

    def learn_epoch(self, epoch: int) -> None:
        """Know of an epoch; 0 is none."""
        if epoch:
            self.generation = max(self.generation, epoch >> 32)

    def inherit(self, timelines: Mapping[str, int]) -> None:
        """Know what a former worker has known."""
        for system, timeline in timelines.items():
            self.learn_timeline(system, timeline)

    @property
    def unkept(self) -> bool:
        """Whether there is something that the files do not hold."""
        return any(self._kept.get(path) != text for path, text in self._texts().items())

    def _texts(self) -> dict[Path, bytes]:
        if self._path is None:
            return {}
        facts = {self._path: {"timelines": self._timelines}, self._path.with_name(GENERATION): self.generation}
        return {path: json.dumps(fact).encode() for path, fact in facts.items()}

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
        except OSError as error:
            if str(error) != self._trouble:
                log.warning("cannot write %s, which keeps this node from following an old primary: %s", new, error)
            self._trouble = str(error)
        else:
            self._kept[path], self._trouble = text, ""

    def _load(self, path: Path) -> None:
        timelines = self._read(path, _timelines)
        generation = self._read(path.with_name(GENERATION), int)
        self._timelines = self._timelines if timelines is None else timelines
        self.generation = self.generation if generation is None else generation

    def _read(self, path: Path, meaning: Callable[[Any], Known]) -> Known | None:
        """Return what a file holds; None when it is not there or makes no sense."""
        try:
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as file:
                text = file.read(LONGEST)
            known = meaning(json.loads(text))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError, AttributeError) as error:
            log.warning("cannot read %s (%s): going on without what it held", path, error)
            return None
        self._kept[path] = text
        return known


def _timelines(fact: Any) -> dict[str, int]:
    return {str(system): int(timeline) for system, timeline in fact["timelines"].items()}

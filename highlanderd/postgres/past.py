"""What a node has seen of servers, kept in a file of its state directory: an old primary must not lead it back.

The file is advice that only makes the node more careful: what cannot be read or written is said, and no error.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

LONGEST = 64 * 1024
"""Bytes of the file that are read: it holds a line for each database system that the node has ever met."""


class Past:
    """The highest timeline of each system, and the generation of epochs: the upper half of the highest one seen."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._timelines: dict[str, int] = {}
        self.generation = -1
        """-1 until an epoch was seen."""
        self._kept: bytes = b""
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
        """Know of an epoch."""
        self.generation = max(self.generation, epoch >> 32)

    def inherit(self, timelines: Mapping[str, int]) -> None:
        """Know what a former worker has known."""
        for system, timeline in timelines.items():
            self.learn_timeline(system, timeline)

    @property
    def unkept(self) -> bool:
        """Whether there is something that the file does not hold."""
        return self._path is not None and self._text() != self._kept

    def _text(self) -> bytes:
        return json.dumps({"timelines": self._timelines, "generation": self.generation}).encode()

    def keep(self) -> None:
        """Write it. May wait for a disk: never call it on the event loop."""
        if self._path is None:
            return
        text = self._text()
        new = self._path.with_name(f"{self._path.name}.new")
        try:
            new.unlink(missing_ok=True)
            file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(file, "wb") as writer:
                writer.write(text)
                writer.flush()
                os.fsync(file)
            new.rename(self._path)
        except OSError as error:
            if str(error) != self._trouble:
                log.warning("cannot write %s, which keeps this node from following an old primary: %s", new, error)
            self._trouble = str(error)
        else:
            self._kept, self._trouble = text, ""

    def _load(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                text = file.read(LONGEST)
            facts: dict[str, Any] = json.loads(text)
            timelines = {str(system): int(timeline) for system, timeline in facts["timelines"].items()}
            self.generation = int(facts["generation"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            log.warning("cannot read %s (%s): going on without what it held", path, error)
            return
        self._timelines, self._kept = timelines, text

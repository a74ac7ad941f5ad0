"""A reload: reads the configuration again, and has the fleet follow it. A file that cannot be used changes nothing."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from highlanderd.config import Configuration, Loaded, difference, load
from highlanderd.core.states import Author
from highlanderd.errors import ConfigurationError, HighlanderError
from highlanderd.listeners.orders import ReloadReport
from highlanderd.postgres.addresses import same_place
from highlanderd.threads import in_thread
from highlanderd.worker.fleet import Fleet
from highlanderd.worker.foresight import Foresight
from highlanderd.worker.notices import Notices
from highlanderd.worker.persistence import Persistence

log = logging.getLogger(__name__)


COMPARED_WITHIN: Final = 0.5
"""Seconds for a comparison that is only advice."""


def _edited(sources: Mapping[str, str]) -> Iterator[str]:
    for name, text in sources.items():
        with suppress(OSError):
            if Path(name).read_bytes().decode(errors="replace") != text:
                yield name


class Reloading:
    """Reloads one file. Of several reloads at once only the one that began last is applied."""

    def __init__(
        self,
        path: Path,
        configuration: Configuration,
        fleet: Fleet,
        persistence: Persistence,
        notices: Notices,
        *,
        on_reloaded: Callable[[bool], None],
    ) -> None:
        self._path, self._configuration = path, configuration
        self._fleet, self._persistence, self._notices = fleet, persistence, notices
        self._foresight = Foresight(fleet, configuration.daemon.node, configuration.daemon.namespace)
        self._on_reloaded = on_reloaded
        """Called with the outcome of each reload."""
        self._begun = 0
        self._under_way = 0

    @property
    def under_way(self) -> bool:
        """Whether one has begun that may still be applied, or refused."""
        return self._under_way > 0

    async def edited(self) -> tuple[str, ...]:
        """Return the files that hold something else than what was loaded from them. Never waits long for a disk."""
        sources = self._persistence.latest.sources
        reading = in_thread(lambda: tuple(_edited(sources)), "compare files")
        await asyncio.wait([reading], timeout=COMPARED_WITHIN)
        return reading.result() if reading.done() and reading.exception() is None else ()

    async def reload(self, *, dry_run: bool, force: bool, by: Author) -> ReloadReport:
        """Apply the file as it is now, or only say what that would do. Raises HighlanderError.

        A running child is not drained for a program that this machine cannot start, except with ``force``.
        """
        if dry_run:
            loaded = await self._loaded(force)
            return ReloadReport(self._changes(loaded), (*loaded.warnings, *loaded.findings))
        self._begun += 1
        with self._notices.reload(), self._counted():
            loaded = await self._loaded(force)
            programs, changes = loaded.configuration.programs, self._changes(loaded)
            restarted, added = self._foresight.restarted_by(programs), self._foresight.added_by(programs)
            self._persistence.reloaded(loaded)
            self._fleet.want(programs, by)
            self._persistence.hand_over()
            self._on_reloaded(True)
            for note in (*loaded.warnings, *loaded.findings):
                log.warning("%s", note)
            log.info("reloaded: %s", "; ".join(changes) or "nothing has changed")
            return ReloadReport(changes, (*loaded.warnings, *loaded.findings), restarted, added)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def _loaded(self, force: bool) -> Loaded:
        number = self._begun
        try:
            loaded = await in_thread(lambda: load(self._path, os.environ), "reload")
            if number != self._begun:
                raise HighlanderError("this reload was not applied, because a later one has begun meanwhile")
            if self._fleet.ending:  # its programs would be led again, and it would never end
                raise HighlanderError("this reload was not applied, because the daemon drains everything, and ends")
            if not force:
                self._refuse_two_locks(loaded)
                self._refuse_to_drain(loaded)
        except HighlanderError as error:
            self._on_reloaded(False)
            log.error("the configuration was not reloaded:\n%s", error)
            raise
        return loaded

    def _refuse_two_locks(self, loaded: Loaded) -> None:
        """Raise ConfigurationError if a program would contend for another lock, which guards against no other node."""
        if relocked := self._foresight.relocked_by(loaded.configuration.programs):
            names = " ".join(relocked)
            raise ConfigurationError(
                (
                    f"{', '.join(relocked)}: another lock_key makes another lock, and a node that still has the former "
                    f"one would run a second copy: 'highlanderctl stop --force {names}' on all nodes, reload them, and "
                    f"'highlanderctl start {names}' on each; or add --force to this",
                )
            )

    def _refuse_to_drain(self, loaded: Loaded) -> None:
        """Raise ConfigurationError if this would drain a program that could not be started here again."""
        drained = self._foresight.restarted_by(loaded.configuration.programs)
        if lacks := [sentence for name in drained for sentence in loaded.lacks.get(name, ())]:
            raise ConfigurationError(
                ("this would drain what cannot be started here again; mend it, or add --force:", *lacks)
            )

    def _changes(self, loaded: Loaded) -> tuple[str, ...]:
        """Say what applying this would do, and what it cannot change."""
        configuration = loaded.configuration
        return (*_kept(self._configuration, configuration), *self._foresight.plan(configuration.programs))


def _kept(old: Configuration, new: Configuration) -> Iterator[str]:
    """Name the sections that a reload cannot change, but for those of their keys that it can."""
    for name in ("daemon", "postgres", "control", "metrics", "log"):
        keys = set(difference(getattr(old, name), getattr(new, name)))
        if "dsn" in keys and same_place(*(each.postgres.dsn.get_secret_value() for each in (old, new))):
            keys.remove("dsn")
            yield "[postgres] dsn has other credentials: new connections use them"
        if name == "daemon":
            keys.discard("include")  # it says where programs are written, and they are followed
        if name == "postgres" and "lease" in keys:
            keys.remove("lease")
            yield "[postgres] lease: the ledger's own rules; 'highlanderctl ledger set-lease' changes that"
        if keys:
            yield f"[{name}] {', '.join(sorted(keys))}: takes effect when the daemon is restarted"

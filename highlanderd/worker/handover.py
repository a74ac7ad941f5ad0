"""The handover from one worker to the next, which the guardian holds as bytes that it never reads.

The next worker goes on with what was in force. A file that was edited meanwhile counts only after a reload.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from highlanderd import __version__
from highlanderd.config import Configuration, Loaded, ProgramConfig, load, reload_from
from highlanderd.core.states import Want
from highlanderd.durations import rfc_3339
from highlanderd.errors import HighlanderError
from highlanderd.postgres.addresses import same_place
from highlanderd.postgres.memory import GENERATION, PROMISE, TIMELINES
from highlanderd.structs import replace
from highlanderd.worker.beginnings import Beginnings

log = logging.getLogger(__name__)


class WorkerHandover(Struct, frozen=True):
    """The configuration in force, operators' wishes, and what was learnt of the server. Secrets are in it."""

    base: Loaded
    """As the daemon was started: everything but the programs is in force from here until it is restarted."""
    latest: Loaded
    """As it was last reloaded: the programs are in force from here."""
    wishes: Mapping[str, Want] = field(default_factory=dict)
    seen_ledger: bool = False
    memory: Mapping[str, Any] = field(default_factory=lambda: {TIMELINES: {}})
    """What was seen of servers and ledgers: the facts of a NodeMemory."""
    restart_due: str | None = None
    """Since when the guardian is of another version than its workers; None while it is of the same."""
    beginnings: Beginnings = field(default_factory=Beginnings)
    """What programs begin with."""

    @property
    def configuration(self) -> Configuration:
        """What no reload changes."""
        return self.base.configuration

    @property
    def programs(self) -> Mapping[str, ProgramConfig]:
        """What a reload changes."""
        return self.latest.configuration.programs

    def under(self, guardian: str | None) -> WorkerHandover:
        """Return it as it holds below a guardian of this version, which may be older than this worker."""
        if guardian == __version__:
            return replace(self, restart_due=None)
        return replace(self, restart_due=self.restart_due or rfc_3339(time.time(), "seconds"))

    @property
    def connecting(self) -> Loaded:
        """What says how to connect: the latest reload, unless its dsn names another place; that needs a restart."""
        base, latest = (loaded.configuration.postgres.dsn.get_secret_value() for loaded in (self.base, self.latest))
        return self.latest if same_place(base, latest) else self.base

    def encode(self) -> bytes:
        """Return it as bytes."""
        latest = None if self.latest is self.base else self.latest.sources_json().decode()
        facts = {
            "base": self.base.sources_json().decode(),
            "latest": latest,
            "wishes": {name: wish.value for name, wish in self.wishes.items()},
            "seen_ledger": self.seen_ledger,
            "restart_due": self.restart_due,
            **self.beginnings.facts(),
            **self.memory,
        }
        return json.dumps(facts).encode()


def begin(path: Path, memo: bytes | None, environ: Mapping[str, str], known: Loaded | None = None) -> WorkerHandover:
    """Return what the last worker left; for the first one, the file's configuration. Raises ConfigurationError.

    ``known`` is what was loaded in this process already. What is the same is not loaded again: leases run meanwhile.
    A worker of another version may have left what this one cannot read. Then the file counts, as after a restart.
    Operators' wishes and what was learnt of servers are kept where they can be read.
    """
    if memo is None:
        loaded = known or load(path, environ)
        return WorkerHandover(loaded, loaded)

    def reloaded(blob: bytes) -> Loaded:
        return known if known is not None and known.sources_json() == blob else reload_from(blob, environ)

    facts: dict[str, Any] = {}
    try:
        facts = dict(json.loads(memo))
        base = reloaded(facts["base"].encode())
        latest = base if facts["latest"] is None else reloaded(facts["latest"].encode())
    except (ValueError, LookupError, TypeError, AttributeError, HighlanderError) as error:
        log.error("cannot use what the last worker handed over (%s); reading %s as it is now", error, path)
        base = latest = load(path, environ)
    return _with_facts(WorkerHandover(base, latest), facts)


def _with_facts(handover: WorkerHandover, facts: Mapping[str, Any]) -> WorkerHandover:
    """Return it with all that can be read, apart from the configuration."""
    due = facts.get("restart_due")
    return replace(
        handover,
        wishes=_wishes(facts.get("wishes")),
        seen_ledger=bool(facts.get("seen_ledger")),
        memory={TIMELINES: {}} | {name: facts[name] for name in (TIMELINES, GENERATION, PROMISE) if name in facts},
        restart_due=None if due is None else str(due),
        beginnings=Beginnings.read(facts),
    )


def _wishes(written: object) -> dict[str, Want]:
    """Return the wishes that can be read."""
    known: dict[object, Want] = {wish.value: wish for wish in Want}
    pairs = written.items() if isinstance(written, dict) else ()
    return {name: known[value] for name, value in pairs if isinstance(value, str) and value in known}

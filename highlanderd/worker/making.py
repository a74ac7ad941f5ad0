"""Makes a program of this node from its configuration, with the session, spawner and prober that belong to it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Final

from highlanderd.children.prober import Prober
from highlanderd.children.spawn import Origin, Spawner
from highlanderd.config import ProgramConfig
from highlanderd.core.placement import Peers
from highlanderd.core.schedule import Schedule
from highlanderd.core.states import Policy, Situation
from highlanderd.postgres.look_batch import LookBatch
from highlanderd.postgres.pool import Pool
from highlanderd.postgres.renewal_batch import RenewalBatch
from highlanderd.postgres.resolver import Resolver
from highlanderd.postgres.session import Session
from highlanderd.worker.interfaces import Recorder
from highlanderd.worker.member import Member
from highlanderd.worker.moments import Moments
from highlanderd.worker.program import Program
from highlanderd.worker.records import LastExit, Tell
from highlanderd.worker.starts import Starts

GRID: Final = 0.02
"""Share of a lease to which times are rounded: 100 programs then share some twenty wake-ups in each round."""


class MemberMaker:
    """Knows what all programs of this node have in common."""

    def __init__(
        self,
        pool: Pool,
        origin: Origin,
        *,
        instance: str,
        on_connection_loss: str,
        recorder: Recorder,
        on_alarm: Callable[[str], None],
        tell: Tell = lambda *_, **__: None,
        session: Callable[..., Session] = Session,
    ) -> None:
        """``session`` makes a program's session."""
        self.instance = instance
        self._pool, self._origin, self._on_connection_loss = pool, origin, on_connection_loss
        self._recorder, self._on_alarm, self._tell = recorder, on_alarm, tell
        self._session, self._names = session, Resolver()
        self._looks, self._renewals = LookBatch(), RenewalBatch()
        self._starts, self._moments = Starts(), Moments()

    def member(
        self,
        config: ProgramConfig,
        situation: Situation,
        lock_id: int,
        *,
        schedule: Schedule | None,
        last_exit: LastExit | None,
        on_change: Callable[[], None],
        peers: Callable[[], Peers],
    ) -> Member:
        """Make one in a situation. ``peers`` returns the other nodes that wait for it."""
        spawner, prober = Spawner(self._origin, config), Prober(config, self._names)
        program = Program(
            config.name,
            situation,
            self.policy(config, schedule),
            spawn=spawner,
            prober=prober,
            recorder=self._recorder,
            on_change=on_change,
            on_alarm=self._on_alarm,
            attention=self._origin.guardian.attention,
            last_exit=last_exit,
            tell=self._tell,
            starts=self._starts,
            moments=self._moments,
        )
        return Member(program, self._session_of(program, config, lock_id, peers), spawner, prober, lock_id)

    def _session_of(self, program: Program, config: ProgramConfig, lock_id: int, peers: Callable[[], Peers]) -> Session:
        return self._session(
            self._pool,
            program=program.name,
            lock_id=lock_id,
            advisory=config.advisory_lock(self._origin.namespace),
            node=self._origin.node,
            instance=self.instance,
            keeperless=lambda: not self._origin.guardian.holds(lock_id, program.name),
            post=program.post,
            on_alarm=self._on_alarm,
            peers=peers,
            looks=self._looks,
            renewals=self._renewals,
        )

    def policy(self, config: ProgramConfig, schedule: Schedule | None) -> Policy:
        """Return what the configuration says about the life of a program."""
        return Policy(
            node=self._origin.node,
            instance=self.instance,
            stop_signal=config.stop_signal,
            stop_timeout=config.stop_timeout,
            stop_to=config.stop_to,
            restart=config.restart,
            success_exit_codes=frozenset(config.success_exit_codes),
            backoff=config.backoff,
            backoff_max=config.backoff_max,
            backoff_reset=config.backoff_reset,
            ready_timeout=config.ready_within,
            hooks=frozenset(config.hooks),
            hook_timeout=config.hook_timeout,
            on_connection_loss="stop" if self._on_connection_loss == "stop" else "hold",
            jitter=uuid.uuid5(uuid.UUID(self.instance), config.name).int / 2**128,
            prefer=config.prefer,
            spread=config.spread,
            schedule=schedule,
            grid=GRID,
        )

"""What the configuration says about a program's life, as its machine goes by it."""

from __future__ import annotations

import uuid
from typing import Final

from highlanderd.config import ProgramConfig
from highlanderd.core.schedule import Schedule
from highlanderd.core.states import Policy

GRID: Final = 0.02
"""Share of a lease to which times are rounded: 100 programs then share some twenty wake-ups in each round."""


def policy(
    config: ProgramConfig, node: str, instance: str, schedule: Schedule | None, *, on_connection_loss: str
) -> Policy:
    """Return the policy of a program on a node, whose daemon is ``instance``."""
    return Policy(
        node=node,
        instance=instance,
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
        on_connection_loss="stop" if on_connection_loss == "stop" else "hold",
        jitter=uuid.uuid5(uuid.UUID(instance), config.name).int / 2**128,
        prefer=config.prefer,
        spread=config.spread,
        schedule=schedule,
        grid=GRID,
    )

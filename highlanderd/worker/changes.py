"""What a change of a program's keys does to it: which keys apply to a running child, and which need a new one."""

from __future__ import annotations

from typing import Final

from highlanderd.config import ProgramConfig, difference
from highlanderd.config.probes import Notify

APPLIED_AT_ONCE: Final = frozenset(
    {
        "description",
        "autostart",
        "restart",
        "success_exit_codes",
        "backoff",
        "backoff_max",
        "backoff_reset",
        "ready_timeout",
        "stop_signal",
        "stop_timeout",
        "stop_to",
        "log_max_bytes",
        "log_backups",
        "log_compress",
        "log_timestamps",
        "log_format",
        "log_overflow",
        "prefer",
        "never",
        "failback",
        "spread",
        "after",
        "schedule",
        "timezone",
        "catch_up",
    }
)
"""Keys that apply to a running child; a change of any other ends its term."""
PROBES: Final = frozenset({"ready", "alive", "alive_timeout"})
"""Keys that do as well, as long as the child need not be told: for ``notify`` it gets variables when it is started."""


def needs_new_child(old: ProgramConfig, new: ProgramConfig) -> bool:
    """Return whether a program whose configuration has changed can only go on with a new child."""
    if (old.schedule is None) != (new.schedule is None):
        return True
    keys = set(difference(old, new)) - APPLIED_AT_ONCE
    return bool(keys - PROBES) or (bool(keys) and _told(old) != _told(new))


def _told(config: ProgramConfig) -> tuple[bool, float | None]:
    """Return what the variables of a new child say: whether it has a notify socket, and its watchdog timeout in s."""
    return config.notifies, config.alive_timeout if isinstance(config.alive, Notify) else None


def effect(old: ProgramConfig, new: ProgramConfig, node: str, *, led: bool) -> str:
    """Return in words what the change does on a node, which may lead the program."""
    if node in {*new.never} - {*old.never}:
        return "drains and leaves this node"
    if not needs_new_child(old, new):
        return "applies at once"
    return "drains and starts again here" if led else "is not led here: its next start here uses it"

"""What the worker asks of a keeper, what the keeper reports, and the events in a report."""

from __future__ import annotations

import marshal
import os
from collections.abc import Iterator, Mapping
from typing import Literal

from msgspec import Struct, field

from highlanderd.core.events import Emptied, Exited, HookFinished, HookStarted, SpawnFailed, Started
from highlanderd.guardian.channel import MARSHAL_VERSION, Message

LONGEST_MEMO = 16384  # bytes; it travels with every report

ChildEvent = Started | SpawnFailed | Exited | Emptied | HookStarted | HookFinished


def check_memo(memo: bytes) -> None:
    """Raise ValueError when a keeper's memo is longer than 16 KiB."""
    if len(memo) > LONGEST_MEMO:
        raise ValueError(f"a keeper's memo may have {LONGEST_MEMO} bytes, not {len(memo)}")


class SpawnRequest(Struct, frozen=True):
    """What to start, as whom, and until when. Times are CLOCK_BOOTTIME seconds; users and groups are numbers."""

    program: str
    lock_id: int
    epoch: int
    not_after: float
    """Nothing is executed at this moment or later."""
    deadline: float
    """The keeper kills the whole tree at this moment, unless ``set_deadline`` moves it."""
    memo: bytes
    """Returned with each report, also to the next worker. At most 16 KiB."""
    argv: tuple[str, ...]
    env: Mapping[str, str]
    """The whole environment. ``argv[0]`` is looked up in its PATH."""
    cwd: str | None = None
    umask: int = 0o022
    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] | None = None
    stdout: Literal["pipe", "null"] = "pipe"
    stderr: Literal["pipe", "null"] = "pipe"
    cgroup: bool = True
    limits: Mapping[str, int] = field(default_factory=dict)
    """setrlimit's, by name in small letters; soft and hard alike, -1 is unlimited."""
    nice: int | None = None
    oom_score_adj: int | None = None
    no_new_privileges: bool = False
    log: Mapping[str, object] | None = None
    """Where its output goes, and how, as ``protocol.LOG`` has it."""
    foreground: Mapping[str, object] | None = None
    """Whose process group it joins, and what it ignores, as ``protocol.FOREGROUND`` has it; None for a daemon's."""
    notify: bool = False
    """It gets a socket for sd_notify(3)."""
    hooks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Commands by the names of hooks."""
    hook_timeout: float = 30.0
    cause: str = ""
    """Why the term before ended, for ``before_start``."""
    cgroup_limits: Mapping[str, int] = field(default_factory=dict)
    """Bytes, tasks, and microseconds of processor time in each ``CPU_PERIOD``, by the names of ``CONTROLLERS``."""

    def spec(self) -> bytes:
        """Return the memfd of ``spawn``. Text becomes bytes here, where the configuration's encoding is known."""
        return marshal.dumps(
            {
                "argv": [os.fsencode(word) for word in self.argv],
                "env": {os.fsencode(name): os.fsencode(value) for name, value in self.env.items()},
                "cwd": None if self.cwd is None else os.fsencode(self.cwd),
                "umask": self.umask,
                "uid": self.uid,
                "gid": self.gid,
                "groups": None if self.groups is None else list(self.groups),
                "stdout": self.stdout,
                "stderr": self.stderr,
                "deadline": self.deadline,
                "memo": self.memo,
                "cgroup": self.cgroup,
                "limits": dict(self.limits),
                "nice": self.nice,
                "oom_score_adj": self.oom_score_adj,
                "no_new_privileges": self.no_new_privileges,
                "log": None if self.log is None else dict(self.log),
                "foreground": None if self.foreground is None else dict(self.foreground),
                "notify": self.notify,
                "hooks": {name: [os.fsencode(word) for word in argv] for name, argv in self.hooks.items()},
                "hook_timeout": self.hook_timeout,
                "cause": self.cause,
                "cgroup_limits": dict(self.cgroup_limits),
            },
            MARSHAL_VERSION,
        )


class KeeperReport(Struct, frozen=True):
    """A keeper's whole state. Times are CLOCK_BOOTTIME seconds."""

    pid: int | None
    started: float | None
    """When the program was executed; None before, and for ever when that failed."""
    failed: str | None
    """Why it was not executed, and what to do about it."""
    status: int | None
    """The raw wait status of the main process once it has ended; its tree may live on."""
    exited_at: float | None
    killed: Literal["deadline", "order", "abandoned"] | None
    """Why SIGKILL was sent to the tree; None when it was not."""
    empty: bool
    """The tree is proven empty."""
    deadline: float
    memo: bytes
    killed_at: float | None = None
    """When SIGKILL was first sent."""
    keeper: int | None = None
    """The keeper's own pid; None for a keeper of an earlier version."""
    ready: float | None = None
    """When the child has said READY=1."""
    says: str = ""
    """The latest STATUS= that the child has said."""
    extended: float | None = None
    """Until when the child has asked for time to become ready."""
    unhealthy: str | None = None
    """Why its watchdog was not satisfied; None while it is."""
    probe: int | None = None
    """The number of the latest probe, 0 before the first; None for a keeper of an earlier version, which runs none."""
    probe_status: int | None = None
    """How that has ended, as a raw wait status."""
    probe_failed: str | None = None
    """Why it has no status that counts."""
    hooks: Mapping[str, str | None] | None = None
    """Why each hook that was begun has failed: empty when it has not, None while it runs. None for a keeper of an
    earlier version, which runs none."""
    unlimited: str | None = None
    """Which limits by cgroup do not hold, and why: empty when all do. None when none is asked for, and for a keeper of
    an earlier version, which sets none."""
    unkillable: tuple[int, ...] = ()
    """Processes that SIGKILL has not ended for two seconds, a hundred at most."""

    @property
    def probing(self) -> bool:
        """Whether a probe runs."""
        return bool(self.probe) and self.probe_status is None and self.probe_failed is None

    @property
    def hooked(self) -> bool:
        """Whether a hook runs, or is to run now."""
        return None in (self.hooks or {}).values()

    @property
    def finished_hooks(self) -> Mapping[str, str]:
        """Why each hook that has ended has failed; empty when it has not."""
        return {hook: why for hook, why in (self.hooks or {}).items() if why is not None}

    @classmethod
    def of(cls, message: Message) -> KeeperReport:
        """Return the report in a ``state`` message. A keeper of an earlier version may leave keys out."""
        facts = {name: message[name] for name in cls.__struct_fields__ if name in message}
        return cls(**facts, unkillable=tuple(message.get("undying", ())))

    def facts(self) -> Iterator[ChildEvent]:
        """Yield what has happened so far. A later report's facts only ever continue an earlier one's."""
        if "before_start" in (self.hooks or {}):
            yield HookStarted()
        if self.started is None:
            if self.empty:
                yield SpawnFailed(self.failed or "its program was never executed, and nobody said why")
            return
        yield Started(self.pid or 0, self.started)
        if self.status is not None:
            yield Exited(self.status, self.exited_at or self.started, alone=self.empty or self.probing or self.hooked)
        if self.empty:
            yield Emptied()

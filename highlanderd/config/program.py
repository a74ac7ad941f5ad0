"""One program: every key that it can have, with its default and the reference manual's text."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from highlanderd.config.cron import CronTimes, schedule_fields, zone_name
from highlanderd.config.limits import RLIMITS, nice_value, oom_adjustment, resource_limits
from highlanderd.config.probes import Delay, Liveness, Notify, Readiness, liveness, readiness
from highlanderd.config.sections import Section
from highlanderd.config.values import (
    LONGEST,
    Account,
    Accounts,
    Count,
    Duration,
    EnvironmentFiles,
    ExitCodes,
    Flag,
    Located,
    Nodes,
    Octal,
    Output,
    Programs,
    Secret,
    Signal,
    Size,
    Text,
    Variable,
    between,
    duration,
    kind,
    label,
    quoted,
    table,
    variable,
)
from highlanderd.config.words import words
from highlanderd.core.key import HIGHEST, LOWEST, AdvisoryLock, LockKey, advisory_lock, lock_id

RESERVED = frozenset(
    {
        *("PROGRAM", "NODE", "EPOCH", "LOCK_ID", "CONTROL_SOCKET", "EVENT", "CAUSE", "EXIT_STATUS", "EXIT_SIGNAL"),
        "SCHEDULED_AT",
    }
)
"""What the daemon sets for each child as ``HIGHLANDER_...``: a value from the configuration would be wrong."""


def _lock_key(value: object) -> LockKey:
    if isinstance(value, list | tuple):
        return _pair(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if not LOWEST <= value <= HIGHEST:
            raise ValueError(f"{value} does not fit PostgreSQL's bigint; write {LOWEST} to {HIGHEST}, or a string")
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{quoted(value)} cannot be a lock key; write a string that is not empty, or an integer")
    return value


def _pair(value: Sequence[object]) -> tuple[int, int]:
    halves = [half for half in value if isinstance(half, int) and not isinstance(half, bool)]
    if len(halves) != 2 or len(value) != 2:
        raise ValueError(f"{quoted(value)} cannot be a lock key; write two integers, such as [1, 52318]")
    try:
        lock_id("", (halves[0], halves[1]))
    except ValueError as refusal:
        raise ValueError(f"{refusal}; write two numbers that do") from None
    return halves[0], halves[1]


def alive_value(value: object) -> Liveness | None:
    """Return what says that the program is still well; None for nothing."""
    return None if value is None else liveness(value)


def _inherited(value: object) -> object:
    if isinstance(value, bool):
        return value
    if not isinstance(value, list | tuple):
        raise ValueError(f'{quoted(value)} is {kind(value)}; write true, false, or an array of names, such as ["TERM"]')
    return tuple(variable(name) for name in value)


HOOKS = ("before_start", "after_ready", "before_stop", "after_stop")


def hook_command(value: object) -> tuple[str, ...] | None:
    """Return the words of a hook's command; None for none."""
    return None if value is None else words(value)


Hook = Annotated[tuple[Text, ...] | None, BeforeValidator(hook_command)]


def failback_time(value: object) -> float | None:
    """Return seconds; None for never."""
    if value in (None, "never"):
        return None
    seconds = duration(value)
    if seconds < 1:
        raise ValueError(f'{quoted(value)} would move the program back and forth; write "1s" or longer, or "never"')
    return seconds


def _unreserved(name: str) -> str:
    if name.startswith("HIGHLANDER_") and name.removeprefix("HIGHLANDER_") in RESERVED:
        raise ValueError("is set by the daemon itself for each child; choose another name")
    return name


class ProgramKeys(Section):
    """The keys of ``[program.NAME]``. ``[defaults]`` takes any of them for all programs.

    A program's own key replaces the default's, except that ``environment`` is merged variable by variable.
    """

    model_config = ConfigDict(defer_build=True)  # until it is used: most often that is ``ProgramConfig`` alone

    command: Annotated[tuple[Text, ...], BeforeValidator(words)] = Field(
        description="What to run: an array of words, or one string that is split like a shell would and never run by "
        'one. For pipes and `&&` write `["sh", "-c", "..."]`, and `$${NAME}` for what that shell shall expand '
        "itself. A command without a slash is looked for in the `PATH` of the child.",
    )
    description: Text = Field(default="", description="What the program is, for people.")
    autostart: Flag = Field(
        default=True,
        description="Whether this node contends for the program when the daemon starts. With `false` it waits for "
        "`highlanderctl start`.",
    )
    lock_key: Annotated[LockKey | None, BeforeValidator(_lock_key)] = Field(
        default=None,
        description="What the lock id is made of; it must be the same on all nodes. A string is hashed together with "
        "the namespace; an integer is the advisory lock's own 64-bit number, and `[a, b]` its two 32-bit "
        "numbers, so that other software can take part. "
        "Default: the program's name.",
    )
    directory: Located | None = Field(
        default=None,
        description="Working directory of the child. Relative to the file that says so. Default: the daemon's own.",
    )
    umask: Octal = Field(default=0o022, description='Permissions that new files do not get: octal digits, `"022"`.')
    user: Account | None = Field(
        default=None,
        description="User that the child runs as, name or number; the daemon must be allowed to become it. `HOME`, "
        "`USER`, `LOGNAME` and `SHELL` are set to that user's. Default: the daemon's own.",
    )
    group: Account | None = Field(
        default=None, description="Group of the child, name or number. Default: the user's primary group."
    )
    supplementary_groups: Accounts = Field(
        default=(),
        description="More groups, names or numbers, in addition to those that the group database gives the user.",
    )
    environment: Annotated[dict[Annotated[Variable, AfterValidator(_unreserved)], Secret], BeforeValidator(table)] = (
        Field(
            default={},
            description="Variables of the child; they win over every other source. Values are strings and never shown. "
            "`file:PATH` reads one from a file when the configuration is loaded, relative to the file that says so: a "
            "systemd credential is `file:${CREDENTIALS_DIRECTORY}/NAME`.",
        )
    )
    environment_file: EnvironmentFiles = Field(
        default=(),
        description="A file, or an array of files, of `NAME=value` lines, read at each start of the child; later ones "
        "win. `export` may stand before the name; `#` begins a comment line; a value may stand in single or double "
        "quotes; nothing is expanded. A `-` "
        'before the path makes a file optional (`"./-x"` names one that begins with a dash). Relative to the file that '
        "says so. It is a regular file of 1 MiB at most, read as the program's `user`. What that user may not read is "
        "read as the daemon's, but only if nobody but root and the daemon's user could have put it there.",
    )
    inherit_environment: Annotated[bool | tuple[str, ...], BeforeValidator(_inherited)] = Field(
        default=False,
        description="Which of the daemon's own variables the child gets. `false`: `PATH`, `LANG` and `TZ`. An array: "
        "these names as well. `true`: all but those that concern the daemon alone: `PG*` and systemd's (such as "
        "`NOTIFY_SOCKET`, `LISTEN_*` and `CREDENTIALS_DIRECTORY`).",
    )
    limits: Annotated[dict[str, int], BeforeValidator(resource_limits)] = Field(
        default={},
        description="Limits of the child and of all that it starts, a table. Each process has those of setrlimit, soft "
        f"and hard alike: {', '.join(f'`{name}`' for name in RLIMITS)}. A number, a size such as "
        '`"2GiB"`, or `"unlimited"`; `cpu` counts seconds, `rttime` microseconds. Only a daemon that runs as root can '
        "raise such a limit above its own. Default: the limits that the daemon was started with. The whole tree "
        "together has those of its cgroup: `memory_max`, a size, above which the kernel kills all of it, and the term "
        'ends with the cause `out_of_memory`, or `finished` where `restart = "never"`; `cpu_max`, processors, such as '
        '`1.5` or `"150%"`; `tasks_max`, processes and threads. Where no cgroup can set such a '
        "limit, the program runs without, and `--check`, the log and `status` say so.",
    )
    nice: Annotated[int | None, BeforeValidator(nice_value)] = Field(
        default=None,
        description="Scheduling priority of the child, -20 (most urgent) to 19. Below the daemon's own value only as "
        "root. Default: the daemon's own.",
    )
    oom_score_adj: Annotated[int | None, BeforeValidator(oom_adjustment)] = Field(
        default=None,
        description="How willingly the kernel kills the child when memory runs out, -1000 (never) to 1000 (first). "
        "Less than the daemon's own only as root. Default: the daemon's own, or 0 where that is a protection.",
    )
    no_new_privileges: Flag = Field(
        default=False,
        description="Whether set-user-ID programs and file capabilities give the child nothing, as systemd's "
        "`NoNewPrivileges=` does. `sudo` does not work below it.",
    )
    ready: Annotated[Readiness, BeforeValidator(readiness)] = Field(
        default=Delay(1.0),
        description="What says that the program does its work; `/leader/`, `status` and the metrics go by it. A "
        'duration: it has run for so long. `"notify"`: it says `READY=1`, as sd_notify(3) does. Or a table, which is '
        "asked at once and then each second: `{ http = URL }` is answered with a status from 200 to 399, "
        '`{ tcp = "HOST:PORT" }` accepts a connection, `{ exec = [...] }` ends with status 0. A table also takes '
        "`period` (10s) and `timeout` (3s), as `alive` does; a shorter `period` counts here, too.",
    )
    ready_timeout: Annotated[Duration, between(0.1, LONGEST, "would end every term")] = Field(
        default=90.0,
        description="How long the program may take to become ready, counted from its start. Then its term ends with "
        "the cause `not_ready`: this node stays away for `backoff`, and another one may lead. A program with "
        '`ready = "notify"` may ask for more time with `EXTEND_TIMEOUT_USEC=`; a duration cannot be late.',
    )
    alive: Annotated[Liveness | None, BeforeValidator(alive_value)] = Field(
        default=None,
        description="What says that the program still does its work, once it is ready; the same words as in `ready`, "
        "but for a duration. A table is asked every `period`, and `threshold` (3) failures in a row end the term with "
        'the cause `unhealthy`: this node stays away for `backoff`, and another one may lead. `"notify"`: the program '
        "says `WATCHDOG=1` more often than every `alive_timeout`. Default: a program is well until it ends.",
    )
    alive_timeout: Annotated[Duration, between(0.1, LONGEST, "would end every term")] = Field(
        default=30.0,
        description='How long a program with `alive = "notify"` may be silent. It finds this in `WATCHDOG_USEC`, and '
        "may change it by saying `WATCHDOG_USEC=`.",
    )
    before_start: Hook = Field(
        default=None,
        description="A command, written as `command` is, that runs before the program and in its place: in its tree, "
        "as its user, with its environment and output. When it fails, or does not end in time, the program is not "
        "started: the term ends with the cause `hook_failed`, this node stays away for `backoff`, and another one may "
        "lead.",
    )
    after_ready: Hook = Field(
        default=None,
        description="A command that runs while the program does, once that is ready. When it fails, that is an event, "
        "and no more.",
    )
    before_stop: Hook = Field(
        default=None,
        description="A command that runs while the program does, before that gets `stop_signal`. It does not run when "
        "the program has ended by itself, nor when leadership runs out. When it fails, that is an event, and no more.",
    )
    after_stop: Hook = Field(
        default=None,
        description="A command that runs when the program is gone with its whole tree, and the lock is still held. "
        "When leadership runs out, it has only the time that is left. It does not run when `before_start` has failed. "
        "When it fails, that is an event: the lock is released all the same.",
    )
    hook_timeout: Annotated[Duration, between(0.1, LONGEST, "would end every hook")] = Field(
        default=30.0,
        description="How long each of these hooks may take; then it is killed, and has failed. They find "
        "`HIGHLANDER_EVENT` (its own name), `HIGHLANDER_CAUSE` (why the term ends; in `before_start` why the last one "
        "ended, or `first`), `HIGHLANDER_EPOCH`, and `HIGHLANDER_EXIT_STATUS` or `HIGHLANDER_EXIT_SIGNAL`.",
    )
    restart: Literal["always", "on-failure", "never"] = Field(
        default="always",
        description="Whether a child that has ended is started again, here or on another node. `always`: after a "
        "pause (`backoff`), which grows with failures only. `on-failure`: unless its exit code is one of "
        "`success_exit_codes`. `never`: not before an operator says `highlanderctl start`; "
        "what was lost with its node has not ended, and is begun again on another one. With `schedule` it is about "
        "one run. `never`, the default then: each time is begun at most once, whatever becomes of it. `on-failure`: a "
        "run that failed, or was lost with its node, is repeated until the next time comes.",
    )
    success_exit_codes: ExitCodes = Field(
        default=frozenset({0}), description="Exit codes that are no failure: an array of numbers from 0 to 255."
    )
    backoff: Annotated[Duration, between(0.1, LONGEST, "would start a broken program in a tight loop")] = Field(
        default=1.0,
        description="How long this node stays away from the program after its first failure; other nodes may take it "
        "at once. Doubles with each failure in a row, with jitter.",
    )
    backoff_max: Duration = Field(default=60.0, description="The longest such time; at least `backoff`.")
    backoff_reset: Duration = Field(
        default=60.0, description="A child that has run for this long ends the row of failures."
    )
    stop_signal: Signal = Field(
        default=15,
        description="Signal that asks the child to stop: a name with or without `SIG`, such as `INT` or `RTMIN+3`, or "
        "a number. Default: `TERM`.",
    )
    stop_timeout: Duration = Field(
        default=10.0,
        description="How long the child may take to stop before SIGKILL goes to its whole tree. When leadership runs "
        "out (a fence), it gets less: SIGKILL comes at 9/10 of the lease, whatever this says.",
    )
    stop_to: Literal["tree", "main"] = Field(
        default="tree",
        description="Who gets the stop signal: every process of the child's tree, or its main process alone. SIGKILL "
        "always goes to the whole tree.",
    )
    prefer: Nodes = Field(
        default=(),
        description="Nodes that are to lead it, the most preferred first: another node leaves it to one of them that "
        "is present and could lead it, for 2s at most. Where it runs already it stays, unless `failback` says "
        "otherwise. No such node need exist.",
    )
    never: Nodes = Field(
        default=(), description="Nodes that never run it. It is shown as stopped there. No such node need exist."
    )
    failback: Annotated[float | None, BeforeValidator(failback_time)] = Field(
        default=None,
        description="How long a node that is preferred to the present leader has to be able to lead, without a break, "
        "until the leader releases the program to it; twice as long after each time that it fails there, or is sent "
        "back from there. Default: "
        '`"never"`.',
    )
    spread: Flag = Field(
        default=True,
        description="Whether a node leaves it to one that leads fewer programs: it waits 50ms for each program that it "
        "leads more, 1s at most. Among nodes that differ in their place in `prefer`, that place alone decides.",
    )
    after: Programs = Field(
        default=(),
        description="Programs of this file that it starts after: each must be ready, on whichever node, or have "
        "finished with success. That is for the start alone, also on another node after a failure: what becomes of "
        "them later does not stop it. One that does its work once and ends is ready before it has finished, unless its "
        '`ready` is longer than it takes, such as `"1d"`.',
    )
    schedule: Annotated[str | None, BeforeValidator(schedule_fields)] = Field(
        default=None,
        description="When the program runs: minute, hour, day of month, month and day of week, as in crontab(5), such "
        'as `"30 2 * * *"`. At each time one node of the cluster runs it until it ends; in between, no node leads. '
        "Each time is begun once, or the history says why it was skipped. The time is that of PostgreSQL's host. "
        "Default: the program runs all the time.",
    )
    timezone: Annotated[str, BeforeValidator(zone_name)] = Field(
        default="UTC",
        description='The time zone of `schedule`, such as `"Europe/Berlin"`. Where clocks are set forward, a time at a '
        "fixed hour that is left out comes right after that. Where they are set back, one that comes twice counts "
        "once. Debian's cron does it so, too.",
    )
    catch_up: Annotated[Duration, between(1.0, LONGEST, "would skip times that are a moment late")] = Field(
        default=300.0,
        description="How late a time of `schedule` may still be run, when no node or no PostgreSQL was there. Of "
        "several such times the latest is run, and the others are skipped.",
    )
    stdout: Output = Field(
        default="inherit",
        description="Where standard output goes. `inherit`: to the daemon's, each line prefixed with the program's "
        "name; `/dev/stdout` means that, too. `null`, or `/dev/null`: nowhere. Else the path of a regular file, which "
        'must hold a slash (`"./beat.log"`); relative to the file that says so.',
    )
    stderr: Output = Field(
        default="inherit",
        description="Where standard error goes, in the same words; it may be the same file as `stdout`.",
    )
    log_max_bytes: Size = Field(
        default=50 * 10**6,
        description="A log file is rotated before it grows above this: `50MB`, `64MiB`, or bytes. `0`: never.",
    )
    log_backups: Count = Field(
        default=10,
        description="How many rotated files are kept, `.1` the youngest; 0 to 1000. "
        "Files with a higher number, from when it was more, stay as they are.",
    )
    log_compress: Flag = Field(
        default=False,
        description="Whether rotated files are compressed, to `.1.gz` and so on: one at a time, by a process of the "
        "lowest priority. One that is cut short, because the child or the daemon ends, is begun anew with the next "
        "child.",
    )
    log_timestamps: Flag = Field(
        default=False,
        description="Whether each line begins with the time at which it was read: RFC 3339 in UTC, to a millisecond. "
        "Also where the output is inherited.",
    )
    log_format: Literal["text", "json"] = Field(
        default="text",
        description="`text`: lines as the child writes them. `json`: each as an object with `time`, `program`, "
        "`epoch`, `stream` and `line`. Also where the output is inherited, which then has no prefix.",
    )
    log_overflow: Literal["wait", "drop"] = Field(
        default="wait",
        description="What happens to lines that come faster than they can be written, because a disk hangs or the "
        "reader of the daemon's output is slow. `wait`: the child waits, as it does for any full pipe. `drop`: the "
        "child waits only as long as something is taken; once nothing was for a second, the oldest are dropped and "
        "counted until something is taken again, and a line in their place says how many.",
    )


class ProgramConfig(ProgramKeys):
    """One program, complete: its own keys, those of ``[defaults]``, and the defaults of each key."""

    name: str
    argv: tuple[str, ...] = Field(default_factory=lambda known: known.get("command", ()), repr=False)
    """The command that is executed, ``${NAME}`` expanded. ``command`` holds the words as configured, for display."""

    @model_validator(mode="before")
    @classmethod
    def _runs_once(cls, keys: Any) -> Any:
        """Let a program with a schedule begin each time at most once, where nothing else is said."""
        scheduled = isinstance(keys, dict) and keys.get("schedule") is not None
        return {"restart": "never", **keys} if scheduled else keys

    @property
    def times(self) -> CronTimes | None:
        """When it is to run; None for all the time."""
        return None if self.schedule is None else CronTimes(self.schedule, self.timezone)

    @property
    def key(self) -> LockKey:
        """Return what the lock id is made of."""
        return self.name if self.lock_key is None else self.lock_key

    @property
    def ready_within(self) -> float:
        """Seconds from its start in which it has to become ready. What only has to run on cannot be late."""
        return inf if isinstance(self.ready, Delay) else self.ready_timeout

    @property
    def hooks(self) -> dict[str, tuple[str, ...]]:
        """Commands by the names of the hooks that are configured."""
        found = {name: getattr(self, name) for name in HOOKS}
        return {name: argv for name, argv in found.items() if argv is not None}

    @property
    def notifies(self) -> bool:
        """Whether the child speaks for itself: it gets a socket for sd_notify(3)."""
        return isinstance(self.ready, Notify) or isinstance(self.alive, Notify)

    def lock_id(self, namespace: str) -> int:
        """Return the number by which the ledger knows the program's lock."""
        return lock_id(namespace, self.key)

    def advisory_lock(self, namespace: str) -> AdvisoryLock:
        """Return the advisory lock that the leader holds."""
        return advisory_lock(namespace, self.key)


def name_problem(name: str) -> str:
    """Return what is wrong with a program's name, as a sentence; empty if nothing is."""
    try:
        label(name)
    except ValueError as refusal:
        return str(refusal)
    if name == "all":
        return '"all" is what highlanderctl calls every program; choose another name'
    return ""


def difference(old: Section, new: Section) -> tuple[str, ...]:
    """Return the keys in which two programs, or two sections of one kind, differ, in the order of the reference.

    A command whose words are the same but expand to others has changed too.
    """
    if old is new:  # most often, and there are many keys
        return ()
    changed = [key for key in type(new).model_fields if getattr(old, key) != getattr(new, key)]
    named = ["command" if key == "argv" else key.rstrip("_") for key in changed]
    return tuple(dict.fromkeys(named))

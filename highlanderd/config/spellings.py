"""The words of other supervisors: which key does the same here, or why there is none. supervisord has its own module.

Many people know the keys of a systemd unit by heart, and some those of circus.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from highlanderd import durations
from highlanderd.config.limits import RLIMITS
from highlanderd.config.supervisord import (
    PROGRAM,
    Option,
    exit_codes,
    integer,
    log_file,
    seconds,
    signal,
    size,
    truth,
)


def _duration(given: object) -> object:
    """Return a duration in our words; an example for what has none.

    >>> _duration(5), _duration("5min 20s"), _duration("infinity")
    ('5s', '5m20s', '10s')
    """
    meant = seconds(given)
    if not isinstance(meant, str):
        return meant
    meant = re.sub("sec|s$", "s", meant.replace(" ", "").replace("min", "m"))
    return meant if durations.seconds(meant) is not None else "10s"


def _restart(given: object) -> object:
    known = {"no": "never", "false": "never", "always": "always", "true": "always"}
    return known.get(str(given).lower(), "on-failure")


def _output(given: object) -> object:
    """Return the value of ``stdout`` or ``stderr``: ``append:/var/log/x`` is a path, and ``journal`` is inherited."""
    if not isinstance(given, str):
        return given
    return "inherit" if given == "journal" else log_file(re.sub("^(file|append|truncate):", "", given))


def _limit(name: str) -> Option:
    """Return the option of one of systemd's limits."""
    return Option("limits", value=lambda given: {name: "unlimited" if given == "infinity" else integer(given)})


def _cgroup_limit(name: str, example: object) -> Option:
    """Return the option of one of systemd's limits by cgroup. ``example`` stands for a share of the machine.

    >>> _cgroup_limit("memory_max", "1GiB").value("512M"), _cgroup_limit("tasks_max", 256).value("10%")
    ({'memory_max': '512MiB'}, {'tasks_max': 256})
    """

    def value(given: object) -> object:
        if given == "infinity":
            return {name: "unlimited"}
        if isinstance(given, str) and given.endswith("%") and name != "cpu_max":
            return {name: example}
        return {name: size(given) if name == "memory_max" else integer(given)}

    return Option("limits", f"{name}, for the whole tree", value)


def _hook(key: str) -> Option:
    """Return the option of a command around the start or the stop."""
    return Option(key, "one command, and never run by a shell")


_CGROUP: Final = Option(note="of a cgroup's settings, limits has memory_max, cpu_max and tasks_max")
_FOREGROUND: Final = Option(note="the program must stay in the foreground; ready says when it is up")
_NEVER_GIVEN_UP: Final = PROGRAM["startretries"]
_ONE: Final = PROGRAM["numprocs"]
_NO_ORDER: Final = PROGRAM["priority"]
_SIGNAL: Final = Option(note="a program is stopped by a signal: stop_signal, then SIGKILL after stop_timeout")
_TREE: Final = Option(note="a stop signal goes to the tree or the main process (stop_to), then SIGKILL to the tree")
_EXIT: Final = Option(note="success_exit_codes and restart say what is started again, whatever the code")
_OWN_UNIT: Final = Option(note="the daemon's unit says it, for all that it runs")
_SANDBOX: Final = Option(note="a sandbox belongs in the daemon's unit; /usr/share/highlander/hardening has two")
_CREDENTIAL: Final = Option("environment", "file:PATH reads a secret", lambda _: {"NAME": "file:PATH"})
_COMMAND: Final = Option("command", "with its arguments, and never run by a shell")

SYSTEMD: Final[Mapping[str, Option]] = {
    "ExecStart": _COMMAND,
    "ExecStartPre": _hook("before_start"),
    "ExecCondition": _hook("before_start"),
    "ExecStartPost": _hook("after_ready"),
    "ExecStop": _hook("before_stop"),
    "ExecStopPost": _hook("after_stop"),
    "ExecReload": Option(note="highlanderctl restart gives a program a new process"),
    "Restart": Option("restart", value=_restart),
    "RestartSec": Option("backoff", value=_duration),
    "RestartMaxDelaySec": Option("backoff_max", value=_duration),
    "StartLimitBurst": _NEVER_GIVEN_UP,
    "StartLimitIntervalSec": _NEVER_GIVEN_UP,
    "KillSignal": Option("stop_signal", value=signal),
    "KillMode": Option("stop_to", value=lambda given: "main" if given in ("mixed", "process") else "tree"),
    "SendSIGKILL": PROGRAM["killasgroup"],
    "TimeoutStopSec": Option("stop_timeout", value=_duration),
    "TimeoutSec": Option("stop_timeout", value=_duration),
    "TimeoutStartSec": Option("ready_timeout", value=_duration),
    "SuccessExitStatus": Option("success_exit_codes", value=exit_codes),
    "User": Option("user"),
    "Group": Option("group"),
    "SupplementaryGroups": Option("supplementary_groups"),
    "WorkingDirectory": Option("directory"),
    "UMask": Option("umask"),
    "Environment": Option("environment", "a table", lambda _: {"NAME": "value"}),
    "EnvironmentFile": Option("environment_file"),
    "PassEnvironment": Option("inherit_environment"),
    "StandardOutput": Option("stdout", value=_output),
    "StandardError": Option("stderr", value=_output),
    "Description": Option("description"),
    "Type": Option("ready", "after a delay without it", lambda given: "notify" if given == "notify" else "1s"),
    "PIDFile": _FOREGROUND,
    "WatchdogSec": Option("alive_timeout", 'with alive = "notify"', _duration),
    "After": Option("after", "programs of the file; for the start alone"),
    "Requires": _NO_ORDER,
    **{f"Limit{name.upper()}": _limit(name) for name in RLIMITS},
    "MemoryMax": _cgroup_limit("memory_max", "1GiB"),
    "MemoryLimit": _cgroup_limit("memory_max", "1GiB"),
    "CPUQuota": _cgroup_limit("cpu_max", "150%"),
    "TasksMax": _cgroup_limit("tasks_max", 256),
    "Nice": Option("nice"),
    "OOMScoreAdjust": Option("oom_score_adj"),
    "NoNewPrivileges": Option("no_new_privileges", value=truth),
    "ExitType": Option(note="a term ends with the main process; what it leaves behind is stopped"),
    "RemainAfterExit": Option(note="restart says whether a program that has ended starts again"),
    "GuessMainPID": _FOREGROUND,
    "NotifyAccess": Option(note="any process of the tree may notify"),
    "RuntimeMaxSec": Option(note="no program is ended for its age: `timeout` in front of the command does that"),
    "RestartSteps": Option(note="backoff doubles up to backoff_max"),
    "RestartPreventExitStatus": _EXIT,
    "RestartForceExitStatus": _EXIT,
    "TimeoutAbortSec": Option("stop_timeout", value=_duration),
    "RestartKillSignal": _TREE,
    "FinalKillSignal": _TREE,
    "SendSIGHUP": _TREE,
    "WatchdogSignal": _TREE,
    "ReloadSignal": Option(note="highlanderctl signal HUP sends it"),
    "StandardInput": Option(note="it is /dev/null; `highlanderd run` passes its caller's on"),
    "SyslogIdentifier": Option(note="each line has the program's name in front"),
    "UnsetEnvironment": Option(note="a child inherits PATH, LANG and TZ only, and what inherit_environment names"),
    "LoadCredential": _CREDENTIAL,
    "SetCredential": _CREDENTIAL,
    "DynamicUser": Option("user", "an account that exists"),
    "PAMName": Option(note="no PAM session is opened; limits takes the place of pam_limits"),
    "RuntimeDirectory": _OWN_UNIT,
    "StateDirectory": _OWN_UNIT,
    "LogsDirectory": _OWN_UNIT,
    "Slice": _OWN_UNIT,
    "Delegate": _OWN_UNIT,
    "OOMPolicy": _OWN_UNIT,
    "CPUWeight": _CGROUP,
    "IOWeight": _CGROUP,
    "MemoryHigh": _CGROUP,
    "CPUSchedulingPolicy": Option(note="`chrt` in front of the command sets it"),
    "CPUAffinity": Option(note="`taskset` in front of the command sets it"),
    "IOSchedulingClass": Option(note="`ionice` in front of the command sets it"),
    "CapabilityBoundingSet": _SANDBOX,
    "AmbientCapabilities": Option(note="`setpriv` in front of the command sets them"),
    "RootDirectory": Option(note="`chroot` in front of the command changes it"),
    "PrivateTmp": _SANDBOX,
    "PrivateDevices": _SANDBOX,
    "PrivateNetwork": _SANDBOX,
    "ProtectSystem": _SANDBOX,
    "ProtectHome": _SANDBOX,
    "ReadWritePaths": _SANDBOX,
    "SystemCallFilter": _SANDBOX,
    "Before": _NO_ORDER,
    "Wants": _NO_ORDER,
    "BindsTo": _NO_ORDER,
    "PartOf": _NO_ORDER,
    "Conflicts": Option(note="programs do not know of each other"),
    "OnFailure": Option(note="a metric counts failures, and the alerts that are shipped name them"),
    "FileDescriptorStoreMax": Option(note="children live on while the worker is replaced; none gets descriptors back"),
    "Sockets": Option(note="no socket is passed: the child opens its own once it leads"),
}
"""The keys of a systemd unit."""

CIRCUS: Final[Mapping[str, Option]] = {
    "cmd": _COMMAND,
    "args": _COMMAND,
    "shell": Option(note='no shell runs a command unless it says so: ["sh", "-c", "..."]'),
    "working_dir": Option("directory"),
    "uid": Option("user"),
    "gid": Option("group"),
    "copy_env": Option("inherit_environment", value=lambda _: True),
    "env": Option("environment"),
    "graceful_timeout": Option("stop_timeout", value=_duration),
    "stop_children": Option("stop_to", value=lambda given: "tree" if given else "main"),
    "respawn": Option("restart", value=_restart),
    "max_retry": _NEVER_GIVEN_UP,
    "warmup_delay": _FOREGROUND,
    "numprocesses": _ONE,
    "singleton": _ONE,
}
"""The keys of a circus watcher."""

NOBODYS: Final[Mapping[str, Option]] = {
    "pre_start": _hook("before_start"),
    "prestart": _hook("before_start"),
    "post_start": _hook("after_ready"),
    "after_start": Option("after_ready", "one command; after names programs"),
    "start_after": Option("after", "programs of the file; for the start alone"),
    "pre_stop": _hook("before_stop"),
    "post_stop": _hook("after_stop"),
    "stop_command": _SIGNAL,
    "cwd": Option("directory"),
    "workdir": Option("directory"),
    "env_file": Option("environment_file"),
    "restart_delay": Option("backoff", value=_duration),
    "max_restarts": _NEVER_GIVEN_UP,
    "depends_on": Option("after", "programs of the file; for the start alone"),
    "logfile": Option("stdout", value=log_file),
    "cron": Option("schedule"),
    "OnCalendar": Option("schedule", "five cron fields"),
}
"""Words that several others use."""

_OWNERS: Final = (
    ("supervisord's spelling", PROGRAM),
    ("systemd's spelling", SYSTEMD),
    ("circus' spelling", CIRCUS),
    ("another supervisor's spelling", NOBODYS),
)


def _bare(key: str) -> str:
    """Return a key without hyphens, underscores and capitals.

    >>> _bare("RestartSec"), _bare("restart-sec")
    ('restartsec', 'restartsec')
    """
    return key.lower().replace("_", "").replace("-", "")


_EXACT: Final = {key: (whose, option) for whose, keys in reversed(_OWNERS) for key, option in keys.items()}
_BARE: Final = {_bare(key): found for key, found in _EXACT.items()}


def spelling(key: str, ours: Sequence[str]) -> tuple[str, Option] | None:
    """Return whose word an unknown key is, and what does the same here; None when it is no such word.

    ``restart_sec`` counts as systemd's ``RestartSec``, unless it is one of ``ours`` but for hyphens and capitals.
    """
    return _EXACT.get(key) or (None if _bare(key) in map(_bare, ours) else _BARE.get(_bare(key)))

"""From a keeper's fork to the exec of the program, which inherits nothing but what the request names.

This runs in the forked child, which has one thread. Only here are paths opened that a user has chosen. A failure is
written to a close-on-exec pipe, as a step and an error number; the keeper makes a sentence of it.
"""

# pathlib costs more memory than a keeper has
from __future__ import annotations

import errno
import os
import resource
import struct

from highlanderd.guardian import cgroup
from highlanderd.system import linux

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    Spec = dict[str, Any]

DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ABOUT_TO_EXECUTE = b"!"
NOT_EXECUTED = 127
TIMES = struct.Struct("=dd")  # what opens the gate: the deadline, and when nothing may be executed any more


class Late(Exception):
    """The deadline or the not-after has passed."""


def launch(
    spec: Spec, stdio: tuple[int, int, int], answer: int, keeper: int, directory: str | None, nofile: tuple[int, int],
    gate: int | None = None,
) -> NoReturn:  # fmt: skip
    """Become the child that ``spec`` orders; ``answer`` is the pipe to the keeper, ``keeper`` its pid.

    ``directory`` is the cgroup to enter, ``nofile`` the limits that the daemon itself was started with. With a ``gate``
    everything but the program is prepared, and the term has not begun: the keeper opens it.
    """
    steps: tuple[tuple[str, Callable[[], object]], ...] = (
        ("descriptors", lambda: _hold_only(stdio, answer, gate)),
        ("keeper", lambda: _die_with(keeper)),
        ("session", lambda: _stand(spec.get("foreground"))),
        ("cgroup", lambda: cgroup.enter(directory) if directory else None),
        ("umask", lambda: os.umask(spec["umask"])),
        ("OOM score", lambda: _set_oom_score(spec.get("oom_score_adj"))),  # opens a file, which limits may forbid
        ("limits", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, nofile)),
        ("limits", lambda: _limit(spec.get("limits", {}))),
        ("nice value", lambda: _be_nice(spec.get("nice"))),
        ("user", lambda: change_user(spec["uid"], spec["gid"], spec["groups"])),
        ("keeper", lambda: _die_with(keeper)),  # again: a change of user has undone it
        ("directory", lambda: os.chdir(spec["cwd"]) if spec["cwd"] is not None else None),
        ("privileges", linux.forbid_new_privileges if spec.get("no_new_privileges") else lambda: None),
        ("gate", lambda: _await_term(spec, gate) if gate is not None else None),
        ("program", lambda: _execute(spec, answer)),
    )
    step, number = _failure(steps)
    os.write(answer, f"{step} {number}".encode())
    os._exit(NOT_EXECUTED)


def _failure(steps: tuple[tuple[str, Callable[[], object]], ...]) -> tuple[str, int]:
    """Take the steps, the last of which never returns. Return the one that failed, and its errno."""
    step = ""
    try:
        for step, act in steps:  # noqa: B007 - where it stopped is the answer
            act()
    except Late:
        return "late", 0
    except OSError as error:
        return step, error.errno or 0
    except MemoryError:  # a limit may be too small for the very process that sets it
        return step, errno.ENOMEM
    return step, 0


def _hold_only(stdio: tuple[int, int, int], answer: int, gate: int | None) -> None:
    """Close the keeper's descriptors before any step can hang: an open end of a channel would hide a death."""
    for target, fd in enumerate(stdio):
        os.dup2(fd, target)
    linux.close_all_but(0, 1, 2, answer, *(() if gate is None else (gate,)))


def _die_with(keeper: int) -> None:
    linux.die_with_parent()
    if os.getppid() != keeper:
        os._exit(NOT_EXECUTED)  # it died before it could take us along


def _stand(foreground: Spec | None) -> None:
    """Begin a session, or join the process group of the command that has ordered it to run in the foreground."""
    if foreground is None or foreground["group"] is None:
        os.setsid()
    else:
        os.setpgid(0, foreground["group"])
    if foreground is not None:
        linux.ignore_signals(foreground["ignored"])


def _limit(limits: dict[str, int]) -> None:
    for name, value in limits.items():
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (value, value))
        except ValueError:  # what Python makes of EPERM and EINVAL
            raise PermissionError(errno.EPERM, name) from None


def _be_nice(value: int | None) -> None:
    if value is not None:
        os.setpriority(os.PRIO_PROCESS, 0, value)


def _set_oom_score(wanted: int | None) -> None:
    """Set the OOM killer's score; without a wish undo a protection: the daemon may have one, its children do not."""
    path = "/proc/self/oom_score_adj"
    with open(path, "rb", buffering=0) as score:
        has = int(score.read())
    if wanted is None:
        wanted = max(has, 0)
    if wanted != has:  # written only if it has to be: /proc may be read-only
        with open(path, "wb", buffering=0) as score:
            score.write(b"%d" % wanted)


def change_user(uid: int | None, gid: int | None, groups: list[int] | None) -> None:
    """Become this user with these groups; None is what we are, and the user's own groups."""
    uid = os.geteuid() if uid is None else uid
    gid = os.getegid() if gid is None else gid
    same = (uid, gid) == (os.geteuid(), os.getegid())
    if groups is None:
        groups = os.getgroups() if same else [gid]  # another user must not keep the daemon's groups
    if same and {*groups, gid} == {*os.getgroups(), gid}:
        return  # an unprivileged daemon may ask for what it is already
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _await_term(spec: Spec, gate: int) -> None:
    """Wait for the times of the term that has begun; end when there is none, or when the keeper is gone."""
    times = os.read(gate, TIMES.size)
    if len(times) < TIMES.size:
        os._exit(NOT_EXECUTED)
    spec["deadline"], spec["not_after"] = TIMES.unpack(times)


def _execute(spec: Spec, answer: int) -> None:
    linux.unblock_signals()
    os.write(answer, ABOUT_TO_EXECUTE)
    argv, env, refusal = spec["argv"], spec["env"], None
    for path in candidates(argv[0], env.get(b"PATH", DEFAULT_PATH)):
        now = linux.boottime()
        if now >= spec["deadline"] or now >= spec["not_after"]:
            raise Late
        try:
            os.execve(path, argv, env)  # noqa: S606 - no shell is wanted
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                raise
            if error.errno == errno.ENOENT and os.path.exists(path):
                raise OSError(errno.ENOPKG, "interpreter") from error  # the file is there: what it names is not
            refusal = error if refusal is None or error.errno == errno.EACCES else refusal
    raise refusal or FileNotFoundError(errno.ENOENT, "")


def candidates(program: bytes, path: bytes) -> list[bytes]:
    """Return the paths that may be meant by a command, in the order in which they are tried."""
    if b"/" in program:
        return [program]
    return [os.path.join(directory or b".", program) for directory in path.split(b":")]


CURES = {
    ("directory", errno.ENOENT): "create it, or correct `directory`",
    ("directory", errno.ENOTDIR): "correct `directory`",
    ("directory", errno.EACCES): "let the program's user enter it, or correct `directory`",
    (
        "limits",
        errno.EPERM,
    ): "it is above the daemon's own, which only root may raise, or the kernel's: lower it",
    ("nice value", errno.EACCES): "only root may be more urgent than the daemon: raise `nice`, or remove it",
    ("OOM score", errno.EACCES): "only root may lower it below the daemon's own: raise `oom_score_adj`, or remove it",
    ("user", errno.EPERM): "only root may start programs as another user: run the daemon as root, or remove `user`, "
    "`group` and `supplementary_groups`",
    ("user", errno.EAGAIN): "that user has too many processes: raise that limit",
    ("program", errno.ENOENT): "install it, correct `command`, or set PATH in `environment`",
    ("program", errno.EACCES): "make it executable for the program's user (chmod +x), its directories included",
    ("program", errno.EAGAIN): "its user has too many processes: raise that limit",
    ("program", errno.ENOEXEC): "begin it with a line such as #!/bin/sh, or build it for this machine",
    ("program", errno.ENOPKG): "install the interpreter that its #! line names, or the loader that it was linked for",
    ("program", errno.E2BIG): "shorten `command` or `environment`",
    ("program", errno.ETXTBSY): "another process is still writing to it: try again",
}
"""What the operator can do about a failed step, by its error number."""


def explain(step: str, number: int, spec: Spec) -> str:
    """Return which step failed, why, and what to do about it, as a sentence."""
    if step == "late":
        return (
            "not started: its time was over before the program could be executed; the machine is too slow or was paused"
        )
    subject = {
        "directory": f"cannot enter directory {_shown(spec['cwd'])}",
        "user": f"cannot become user {spec['uid']}, group {spec['gid']}",
        "program": f"cannot execute {_shown(spec['argv'][0])}",
    }.get(step, f"cannot prepare the child's {step}")
    why = "its interpreter is missing" if number == errno.ENOPKG else os.strerror(number)
    cure = CURES.get((step, number))
    return f"{subject}: {why}; {cure}" if cure else f"{subject}: {why}"


def _shown(path: bytes | None) -> str:
    return repr(os.fsdecode(path or b""))

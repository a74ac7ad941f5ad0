"""Every message between guardian, worker and keepers: ``MESSAGES`` is their table, and the only one.

The three are separate processes, and after an upgrade they run different versions: guardian and keepers stay, and the
new worker talks to them. So these rules hold for every release:

* a message may gain keys; an older receiver does not read them
* a receiver ignores a message that it does not know
* a receiver checks each message that it knows (``shapes.py``): a deadline of a wrong type would fail later, or
  never come
* a key keeps its name, its type and its meaning

A worker has one channel to the guardian and one to each keeper. The guardian has one to the fork server and one to each
keeper. The channel of a spare is the worker's once the spare begins::

    guardian ---- hello, keeper, term, listed, refused, emptied, signal, logger, pong -> worker
    guardian <--- ping, prepare, discard, spawn, remember, attend, listener ------- worker
    guardian <--- lift, ack, kill, log, reopen, draining, notify, successor, done - worker
    guardian ---- begin ----------------------------------------------------------> spare
    guardian <--- spare ----------------------------------------------------------- spare
    worker   <--- loaded ---------------------------------------------------------- spare
    guardian ---- fork -----------------------------------------------------------> fork server
    guardian <--- forked ---------------------------------------------------------- fork server
    guardian ---- keeper, logger -------------------------------------------------> forked process
    guardian ---- worker, execute ------------------------------------------------> keeper
    guardian <--- state ----------------------------------------------------------- keeper
    worker   ---- deadline, signal, watch, probe, hook, end, kill, leave ---------> keeper
    worker   <--- state, acknowledged ---------------------------------------------- keeper

The first message to a worker is ``hello``. The guardian then lists all its terms, each as a ``keeper``, a ``term`` or
an ``emptied``, and ends the list with ``listed``. After that both sides send whenever they have something to say.

A message is a dict, and its key ``is`` names its kind. Times are seconds on CLOCK_BOOTTIME. Data that is too long for a
message is sent as the descriptor of a memfd.
"""

from __future__ import annotations

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from highlanderd.guardian.channel import Message

VERSION = 1  # sent in ``hello``; a worker that speaks another version ends at once
GUARDIAN, WORKER, SPARE, KEEPER = "guardian", "worker", "spare", "keeper"
FORK_SERVER, FORKED = "fork server", "forked process"

TERM = {"program": "str", "lock_id": "int", "epoch": "int"}
STATE = {
    **TERM,
    "deadline": "float",
    "memo": "bytes",
    "pid": "int | None",
    "started": "float | None",
    "failed": "str | None",
    "status": "int | None",
    "exited_at": "float | None",
    "killed": "str | None",
    "killed_at": "float | None",
    "empty": "bool",
    "undying": "list[int]",
    "keeper": "int | None",
    "ready": "float | None",
    "says": "str",
    "extended": "float | None",
    "unhealthy": "str | None",
    "probe": "int",
    "probe_status": "int | None",
    "probe_failed": "str | None",
    "hooks": "dict[str, str | None]",
    "unlimited": "str | None",
}
LATER_STATE = (
    *("killed_at", "undying", "keeper"),
    *("ready", "says", "extended", "unhealthy", "probe", "probe_status", "probe_failed"),
    "hooks",
    "unlimited",
)

SPEC = {
    "argv": "list[bytes]",
    "env": "dict[bytes, bytes]",
    "cwd": "bytes | None",
    "umask": "int",
    "uid": "int | None",
    "gid": "int | None",
    "groups": "list[int] | None",
    "stdout": "str",
    "stderr": "str",
    "deadline": "float",
    "memo": "bytes",
    "cgroup": "bool",
    "limits": "dict[str, int]",
    "nice": "int | None",
    "oom_score_adj": "int | None",
    "no_new_privileges": "bool",
    "log": "dict | None",
    "foreground": "dict | None",
    "notify": "bool",
    "hooks": "dict[str, list[bytes]]",
    "hook_timeout": "float",
    "cause": "str",
    "cgroup_limits": "dict[str, int]",
}
"""The memfd of ``spawn``, marshalled: the command, its user, and the first deadline."""
LATER_SPEC = (
    *("limits", "nice", "oom_score_adj", "no_new_privileges", "log", "foreground", "notify"),
    *("hooks", "hook_timeout", "cause", "cgroup_limits"),
)

FOREGROUND = {"group": "int | None", "ignored": "list[int]"}
"""The key ``foreground`` of ``SPEC``, for the one program of ``highlanderd run``: it gets the guardian's own standard
descriptors. It stays in the guardian's session and joins the process group ``group``, or begins a session of its own
for None; and it ignores these signals, as that command did from its start."""

LOG = {
    "files": "dict[str, bytes]",
    "inherit": "list[str]",
    "max_bytes": "int",
    "backups": "int",
    "compress": "bool",
    "timestamps": "bool",
    "format": "str",
    "overflow": "str",
}
"""The key ``log`` of ``SPEC``: which of ``stdout`` and ``stderr`` go into which files, by absolute path, and which to
the daemon's own; and the program's keys ``log_...``."""
LATER_LOG = ("inherit", "compress", "timestamps", "format", "overflow")


class MessageKind:
    """One row of the table: sender, receiver, name, keys with their types, descriptors, and meaning."""

    __slots__ = ("descriptors", "keys", "later", "meaning", "name", "receiver", "sender", "since")

    def __init__(
        self,
        sender: str,
        receiver: str,
        name: str,
        keys: dict[str, str],
        meaning: str,
        descriptors: str = "",
        since: int = VERSION,
        later: tuple[str, ...] = (),
    ) -> None:
        self.sender, self.receiver, self.name, self.keys = sender, receiver, name, keys
        self.meaning, self.descriptors, self.since = meaning, descriptors, since
        self.later = later
        """Keys that an earlier sender leaves out."""


MESSAGES = (
    MessageKind(
        GUARDIAN,
        WORKER,
        "hello",
        {
            "protocol": "int",
            "instance": "str",
            "draining": "bool",
            "memo": "bool",
            "signals": "list[str]",
            "version": "str",
            "quarantined": "dict[str, str]",
        },
        "The first message. ``instance`` is the daemon's UUID. ``draining``: an orderly end has begun already. "
        "``signals`` arrived while no worker was running. ``version`` is the guardian's version of highlanderd; early "
        "guardians leave it out. ``quarantined``: two workers have died while they handled these programs, and how the "
        "last one died; do not handle them.",
        descriptors="what the last worker asked to ``remember``, if ``memo`` is true",
        later=("version", "quarantined"),
    ),
    MessageKind(
        GUARDIAN,
        WORKER,
        "keeper",
        {"id": "int", **TERM},
        "This term has a living keeper. ``kill`` names it by ``id``.",
        descriptors="a channel to the keeper; lost when the worker may open no more files",
    ),
    MessageKind(
        GUARDIAN,
        WORKER,
        "term",
        {"id": "int", **TERM, "state": "dict"},
        "The keeper of this term is dead, or cannot be reached yet. ``state`` is the last one that the keeper sent. "
        "The term's process tree is not proven empty.",
    ),
    MessageKind(GUARDIAN, WORKER, "listed", {}, "The list of the guardian's terms is complete."),
    MessageKind(GUARDIAN, WORKER, "refused", {**TERM, "why": "str"}, "This ``spawn`` started nothing, and never will."),
    MessageKind(
        GUARDIAN,
        WORKER,
        "emptied",
        TERM,
        "The keeper of this term is dead, and the term's process tree is proven empty. Repeated to each new worker "
        "until one sends ``ack``.",
    ),
    MessageKind(
        GUARDIAN, WORKER, "signal", {"name": "str"}, "The daemon got this signal: TERM, INT, QUIT, HUP, USR1 or USR2."
    ),
    MessageKind(
        GUARDIAN,
        WORKER,
        "logger",
        TERM,
        "A logger brings this term's output where it goes. It reports in the memfd: counts, last lines, errors.",
        descriptors="the memfd of its reports",
    ),
    MessageKind(GUARDIAN, WORKER, "pong", {"n": "int"}, "The answer to the ping with this number."),
    MessageKind(
        WORKER,
        GUARDIAN,
        "ping",
        {"n": "int", "lease": "float"},
        "A sign of life. The first one says that the worker is ready. The next one is due within 3/10 of ``lease`` "
        "seconds.",
    ),
    MessageKind(
        WORKER,
        GUARDIAN,
        "spawn",
        {**TERM, "not_after": "float"},
        "Fork a keeper, which starts this term's child. Execute nothing at ``not_after`` or later.",
        descriptors="the request, in a memfd",
    ),
    MessageKind(
        WORKER,
        GUARDIAN,
        "prepare",
        {**TERM, "not_after": "float"},
        "This term is being asked for: fork its keeper ahead, and the child up to the moment before it executes "
        "anything. A ``spawn`` with the same request lets it go on. Whatever else comes ends it: another order for "
        "this lock id, ``not_after``, the worker's death.",
        descriptors="the request, in a memfd",
    ),
    MessageKind(
        WORKER,
        GUARDIAN,
        "discard",
        {"lock_id": "int"},
        "No term has begun: end what was prepared for this lock id.",
    ),
    MessageKind(
        WORKER,
        GUARDIAN,
        "remember",
        {},
        "Send these bytes in the ``hello`` to each later worker.",
        descriptors="a memfd",
    ),
    MessageKind(
        WORKER,
        GUARDIAN,
        "attend",
        {},
        "This memory names the program that the worker handles, and since when. The guardian reads it when the "
        "worker has died.",
        descriptors="a memfd",
    ),
    MessageKind(
        WORKER,
        GUARDIAN,
        "listener",
        {},
        "The worker listens on this socket. The guardian shuts it when the worker counts as dead: one of its threads "
        "may hang in a disk and keep it open.",
        descriptors="the socket",
    ),
    MessageKind(
        WORKER, GUARDIAN, "lift", {"program": "str"}, "An operator has started this program: end its quarantine."
    ),
    MessageKind(
        WORKER, GUARDIAN, "ack", {"lock_id": "int", "epoch": "int"}, "``emptied`` has arrived: forget the term."
    ),
    MessageKind(
        WORKER,
        GUARDIAN,
        "kill",
        {"id": "int", "why": "str"},
        "Kill this keeper, and then its tree. ``why`` it cannot be used, for the log.",
        later=("why",),
    ),
    MessageKind(
        WORKER,
        GUARDIAN,
        "log",
        {**TERM, "order": "dict"},
        "Have this term's logger go by this order from now on. It has the keys of ``log`` in the request to spawn; "
        "where the streams go does not change.",
    ),
    MessageKind(
        WORKER,
        GUARDIAN,
        "reopen",
        TERM,
        "Have this term's logger open its files anew. Its next report says that it has, and what has failed.",
    ),
    MessageKind(WORKER, GUARDIAN, "draining", {}, "An orderly end has begun. Each later worker goes on with it."),
    MessageKind(
        WORKER, GUARDIAN, "notify", {"words": "str"}, "Pass these words on to the service manager; see sd_notify(3)."
    ),
    MessageKind(
        WORKER,
        GUARDIAN,
        "successor",
        {"pid": "int", "code": "int"},
        "The next worker is this process, which has loaded the installed code, and not the spare that the worker "
        "has forked. ``code`` is a number that changes with the installed files. A guardian that does not know this "
        "message starts the next worker as it does after a death.",
        descriptors="the spare's channel",
    ),
    MessageKind(
        WORKER,
        GUARDIAN,
        "done",
        {"code": "int"},
        "Everything is drained. Once the worker has ended, end with this exit code.",
    ),
    MessageKind(
        SPARE,
        GUARDIAN,
        "spare",
        {"pid": "int"},
        "This process has imported what a worker needs, and waits to become one.",
    ),
    MessageKind(
        SPARE,
        WORKER,
        "loaded",
        {"pid": "int"},
        "This process, which the worker has executed for a renewal, has loaded the installed code, and waits to become "
        "the next worker.",
    ),
    MessageKind(
        GUARDIAN,
        SPARE,
        "begin",
        {},
        "Fork the next spare, and work: this channel is the worker's now, and ``hello`` follows.",
        descriptors="the next spare's channel",
    ),
    MessageKind(
        GUARDIAN,
        FORK_SERVER,
        "fork",
        {},
        "Fork a process that owns this descriptor. It is the guardian's child.",
        descriptors="the process' end of the guardian's channel to it",
    ),
    MessageKind(
        FORK_SERVER, GUARDIAN, "forked", {"pid": "int | None"}, "It is forked; ``pid`` is None when that has failed."
    ),
    MessageKind(
        GUARDIAN,
        FORKED,
        "keeper",
        {"place": "int", "directory": "str | None", "logged": "list[str]", "gated": "bool"},
        "Become a keeper, which notes its deadlines in this ``place``, and makes this ``directory`` the cgroup of its "
        "child. ``logged`` names the descriptors. With ``gated`` the child waits for ``execute``.",
        descriptors="the request, in a memfd; a channel to the worker; write ends of pipes that a logger reads",
    ),
    MessageKind(
        GUARDIAN,
        FORKED,
        "logger",
        {"pipes": "list[str]", "again": "bool"},
        "Become a logger. ``pipes`` names the descriptors. ``again``: an earlier logger of this child has died.",
        descriptors="the request, in a memfd; the memfd of its reports; read ends of pipes",
    ),
    MessageKind(
        GUARDIAN,
        KEEPER,
        "worker",
        {},
        "Obey this worker from now on, and send it the state.",
        descriptors="a channel to the worker",
    ),
    MessageKind(
        GUARDIAN,
        KEEPER,
        "execute",
        {"deadline": "float", "not_after": "float", "memo": "bytes"},
        "The term has begun that this keeper was forked for: let the child execute its program, at ``not_after`` no "
        "more. The deadline and the memo are from the ``spawn``.",
    ),
    MessageKind(
        WORKER,
        KEEPER,
        "deadline",
        {"at": "float", "memo": "bytes", "brief": "bool", "silent": "bool"},
        "Kill the tree at ``at``, and at no earlier deadline any more. Replace the memo. The next ``state`` is the "
        "acknowledgement; with ``brief``, ``acknowledged`` may take its place, and with ``silent`` nothing.",
        later=("brief", "silent"),
    ),
    MessageKind(
        WORKER,
        KEEPER,
        "signal",
        {"signum": "int", "to": "str"},
        'Send this signal to the "main" process, or to the whole "tree".',
    ),
    MessageKind(
        WORKER,
        KEEPER,
        "watch",
        {"within": "float"},
        "The child is ready: from now on expect ``WATCHDOG=1`` from it every ``within`` seconds.",
    ),
    MessageKind(
        WORKER,
        KEEPER,
        "probe",
        {"n": "int", "argv": "list[bytes]", "timeout": "float"},
        "Run this command in the tree, as the child's user, and kill it after ``timeout`` seconds. The ``state`` says "
        "how it has ended. Ignored while another one runs.",
    ),
    MessageKind(
        WORKER,
        KEEPER,
        "hook",
        {"name": "str"},
        "Run this hook, once. A ``state`` says how it has ended.",
    ),
    MessageKind(
        WORKER,
        KEEPER,
        "end",
        {"cause": "str", "announced": "bool"},
        "The term ends for this cause. With ``announced``, run ``before_stop``, and let signals wait for it.",
    ),
    MessageKind(
        WORKER,
        KEEPER,
        "kill",
        {"after": "bool"},
        "Kill the tree until it is empty. With ``after``, run ``after_stop`` then: the lock is still held.",
        later=("after",),
    ),
    MessageKind(WORKER, KEEPER, "leave", {}, "The ``state`` with the empty tree has arrived: end."),
    MessageKind(
        KEEPER,
        GUARDIAN,
        "state",
        STATE,
        "Everything about the child: sent at each change, and several times a second while the keeper kills the tree. "
        "``status`` is a raw wait status. ``undying`` are the processes that SIGKILL has not ended for two seconds. "
        "``keeper`` is the keeper's own pid. ``ready``, ``says``, ``extended`` and ``unhealthy`` are what the child "
        "has said by sd_notify(3): since when it is ready, its status, until when it asks for time, and why its "
        "watchdog was not satisfied. ``probe`` is the number of the latest probe: it runs until ``probe_status``, a "
        "raw wait status, or ``probe_failed`` says how it has ended. ``hooks`` has, of each hook that was begun, why "
        "it has failed: empty when it has not, None while it runs. ``unlimited`` says which limits by cgroup do not "
        "hold, and why: empty when all do, None when none is asked for.",
        later=LATER_STATE,
    ),
    MessageKind(
        KEEPER,
        WORKER,
        "state",
        {**STATE, "fds": "list[str]"},
        "The same. ``fds`` names the descriptors: ``stdout``, ``stderr``.",
        descriptors="the read ends of the child's output, once for each worker",
        later=LATER_STATE,
    ),
    MessageKind(
        KEEPER,
        WORKER,
        "acknowledged",
        {"deadline": "float"},
        "This deadline holds, and the memo that came with it. Nothing else has changed since the latest ``state``. "
        "Sent to an earlier worker, which has asked for ``brief`` answers and not for ``silent`` ones.",
    ),
)


def term_of(message: Message) -> Message:
    """Return the keys of a message that name its term."""
    return {name: message[name] for name in TERM}

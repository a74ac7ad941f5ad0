"""Every message between guardian, worker and keepers: this page is their table.

The three are processes of their own, and of different versions after an upgrade: the guardian and the keepers go on,
and a new worker speaks with them. So a message may get new keys, which an older receiver does not read, and a receiver
ignores a message that it does not know. A key keeps its name and its meaning for ever.

A worker has one channel to the guardian and one to each keeper; the guardian has one to each keeper::

    guardian ---- hello, keeper, term, listed, refused, emptied, signal, pong ----> worker
    guardian <--- ping, spawn, remember, ack, kill, draining, notify, done -------- worker
    guardian ---- worker ---------------------------------------------------------> keeper
    guardian <--- state ----------------------------------------------------------- keeper
    worker   ---- deadline, signal, kill, leave ----------------------------------> keeper
    worker   <--- state ----------------------------------------------------------- keeper

The first message to a worker is ``hello``. Then the guardian lists what it holds, a ``keeper``, ``term`` or ``emptied``
for each term, and ends the list with ``listed``. From then on both sides speak whenever they have something to say.
Messages are dicts; ``is`` names them. Times are CLOCK_BOOTTIME seconds. What is too long for a message travels as the
descriptor of a memfd.
"""

from __future__ import annotations

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from highlanderd.guardian.channel import Message

VERSION = 1  # told in ``hello``: a worker ends that does not know the guardian's
GUARDIAN, WORKER, KEEPER = "guardian", "worker", "keeper"

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
}


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
}
"""What ``spawn`` carries in a memfd, marshalled: what to start, as whom, and until when."""


class Row:
    """One kind of message: who sends it to whom, its keys with their types, its descriptors, and what it means."""

    __slots__ = ("descriptors", "keys", "meaning", "name", "receiver", "sender", "since")

    def __init__(
        self,
        sender: str,
        receiver: str,
        name: str,
        keys: dict[str, str],
        meaning: str,
        descriptors: str = "",
        since: int = VERSION,
    ) -> None:
        self.sender, self.receiver, self.name, self.keys = sender, receiver, name, keys
        self.meaning, self.descriptors, self.since = meaning, descriptors, since


MESSAGES = (
    Row(
        GUARDIAN,
        WORKER,
        "hello",
        {"protocol": "int", "instance": "str", "draining": "bool", "memo": "bool", "signals": "list[str]"},
        "The first message. ``instance`` is the daemon's UUID. ``draining``: an earlier worker was told to end in good "
        "order. ``signals`` came while no worker was there.",
        descriptors="what the last worker wanted remembered, if ``memo``",
    ),
    Row(
        GUARDIAN,
        WORKER,
        "keeper",
        {"id": "int", **TERM},
        "A keeper stands by this term. ``id`` names it in ``kill``.",
        descriptors="a channel to it; missing if the worker may open no more",
    ),
    Row(
        GUARDIAN,
        WORKER,
        "term",
        {"id": "int", **TERM, "state": "dict"},
        "A term whose keeper is dead or cannot be reached yet, with the last ``state`` that it sent. Its tree is not "
        "proven empty.",
    ),
    Row(GUARDIAN, WORKER, "listed", {}, "The list of what the guardian holds is complete."),
    Row(GUARDIAN, WORKER, "refused", {**TERM, "why": "str"}, "This ``spawn`` started nothing, and never will."),
    Row(
        GUARDIAN,
        WORKER,
        "emptied",
        TERM,
        "The tree of a term whose keeper is dead is proven empty. Repeated to each worker until ``ack``.",
    ),
    Row(GUARDIAN, WORKER, "signal", {"name": "str"}, "The daemon got this signal: TERM, INT, QUIT, HUP, USR1 or USR2."),
    Row(GUARDIAN, WORKER, "pong", {"n": "int"}, "The answer to the ping with this number."),
    Row(
        WORKER,
        GUARDIAN,
        "ping",
        {"n": "int", "lease": "float"},
        "A sign of life; the first one says that the worker is ready. The next one is owed within 3/10 of ``lease`` "
        "seconds.",
    ),
    Row(
        WORKER,
        GUARDIAN,
        "spawn",
        {**TERM, "not_after": "float"},
        "Fork a keeper that starts this term's child. Nothing is executed from ``not_after`` on.",
        descriptors="what to start and as whom, which the keeper reads",
    ),
    Row(WORKER, GUARDIAN, "remember", {}, "Hand this to each later worker.", descriptors="the bytes to remember"),
    Row(WORKER, GUARDIAN, "ack", {"lock_id": "int", "epoch": "int"}, "``emptied`` was heard: forget the term."),
    Row(WORKER, GUARDIAN, "kill", {"id": "int"}, "Kill this keeper, which is frozen, and then its tree."),
    Row(WORKER, GUARDIAN, "draining", {}, "An orderly end has begun: each later worker goes on with it."),
    Row(WORKER, GUARDIAN, "notify", {"words": "str"}, "Pass this on to the service manager, as sd_notify(3) has it."),
    Row(
        WORKER, GUARDIAN, "done", {"code": "int"}, "Everything is drained: end with this exit code, once I have ended."
    ),
    Row(
        GUARDIAN,
        KEEPER,
        "worker",
        {},
        "Obey this worker from now on, and send it the state.",
        descriptors="a channel to it",
    ),
    Row(
        WORKER,
        KEEPER,
        "deadline",
        {"at": "float", "memo": "bytes"},
        "Kill the tree at ``at``, and no longer when you were told before; carry this memo. The next ``state`` "
        "acknowledges it.",
    ),
    Row(
        WORKER,
        KEEPER,
        "signal",
        {"signum": "int", "to": "str"},
        'Send this signal to the "main" process or to the whole "tree".',
    ),
    Row(WORKER, KEEPER, "kill", {}, "Kill the tree until it is empty."),
    Row(WORKER, KEEPER, "leave", {}, "The empty tree was heard of: end."),
    Row(
        KEEPER,
        GUARDIAN,
        "state",
        STATE,
        "Everything about the child, at each change, and several times a second while its tree is being killed. "
        "``status`` is a raw wait status. ``undying``: processes that SIGKILL has not ended for two seconds.",
    ),
    Row(
        KEEPER,
        WORKER,
        "state",
        {**STATE, "fds": "list[str]"},
        "The same. ``fds`` names the descriptors: ``stdout``, ``stderr``.",
        descriptors="the read ends of the child's output, once for each worker",
    ),
)


# ------------------------------------------------------------------------------------------------ guardian to worker


def hello(instance: str, *, draining: bool, memo: bool, signals: list[str]) -> Message:
    return {
        "is": "hello",
        "protocol": VERSION,
        "instance": instance,
        "draining": draining,
        "memo": memo,
        "signals": signals,
    }


def keeper(number: int, which: Message) -> Message:
    return {"is": "keeper", "id": number, **which}


def term(number: int, which: Message, last: Message) -> Message:
    return {"is": "term", "id": number, **which, "state": last}


def listed() -> Message:
    return {"is": "listed"}


def refused(which: Message, why: str) -> Message:
    return {"is": "refused", **which, "why": why}


def emptied(which: Message) -> Message:
    return {"is": "emptied", **which}


def signalled(name: str) -> Message:
    return {"is": "signal", "name": name}


def pong(number: int) -> Message:
    return {"is": "pong", "n": number}


# ------------------------------------------------------------------------------------------------ worker to guardian


def ping(number: int, lease: float) -> Message:
    return {"is": "ping", "n": number, "lease": lease}


def spawn(program: str, lock_id: int, epoch: int, not_after: float) -> Message:
    return {"is": "spawn", "program": program, "lock_id": lock_id, "epoch": epoch, "not_after": not_after}


def remember() -> Message:
    return {"is": "remember"}


def ack(lock_id: int, epoch: int) -> Message:
    return {"is": "ack", "lock_id": lock_id, "epoch": epoch}


def kill_keeper(number: int) -> Message:
    return {"is": "kill", "id": number}


def draining() -> Message:
    return {"is": "draining"}


def notify(words: str) -> Message:
    return {"is": "notify", "words": words}


def done(code: int) -> Message:
    return {"is": "done", "code": code}


# ---------------------------------------------------------------------------------------- to keepers, and from them


def worker() -> Message:
    return {"is": "worker"}


def deadline(at: float, memo: bytes) -> Message:
    return {"is": "deadline", "at": at, "memo": memo}


def signal(signum: int, to: str) -> Message:
    return {"is": "signal", "signum": signum, "to": to}


def kill() -> Message:
    return {"is": "kill"}


def leave() -> Message:
    return {"is": "leave"}


def state(spec: Message) -> Message:
    """Return the state from which the report of every keeper begins."""
    nothing = dict.fromkeys(("pid", "started", "failed", "status", "exited_at", "killed", "killed_at"))
    known = {"deadline": spec["deadline"], "memo": spec["memo"]}
    return {"is": "state", **term_of(spec), **known, **nothing, "empty": False, "undying": []}


def term_of(message: Message) -> Message:
    """Return just which term a message is about."""
    return {name: message[name] for name in TERM}

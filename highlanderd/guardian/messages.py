"""Make the messages between guardian, worker and keepers, with exactly the keys that ``protocol.py`` lists for each."""

from __future__ import annotations

from highlanderd.guardian.protocol import VERSION, term_of

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from highlanderd.guardian.channel import Message

# ------------------------------------------------------------------------------------------------ guardian to worker


def hello(
    instance: str,
    *,
    draining: bool,
    memo: bool,
    signals: list[str],
    version: str,
    quarantined: dict[str, str] | None = None,
) -> Message:
    return {
        "is": "hello",
        "protocol": VERSION,
        "instance": instance,
        "draining": draining,
        "memo": memo,
        "signals": signals,
        "version": version,
        "quarantined": quarantined or {},
    }


def keeper(number: int, which: Message) -> Message:
    return {"is": "keeper", "id": number, **which}


def term(number: int, which: Message, last: Message) -> Message:
    return {"is": "term", "id": number, **which, "state": last}


def logger(which: Message) -> Message:
    return {"is": "logger", **which}


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


def prepare(program: str, lock_id: int, epoch: int, not_after: float) -> Message:
    return {"is": "prepare", "program": program, "lock_id": lock_id, "epoch": epoch, "not_after": not_after}


def discard(lock_id: int) -> Message:
    return {"is": "discard", "lock_id": lock_id}


def remember() -> Message:
    return {"is": "remember"}


def attend() -> Message:
    return {"is": "attend"}


def listener() -> Message:
    return {"is": "listener"}


def lift(program: str) -> Message:
    return {"is": "lift", "program": program}


def ack(lock_id: int, epoch: int) -> Message:
    return {"is": "ack", "lock_id": lock_id, "epoch": epoch}


def kill_keeper(number: int, why: str) -> Message:
    return {"is": "kill", "id": number, "why": why}


def log(which: Message, order: Message) -> Message:
    return {"is": "log", **which, "order": order}


def reopen(which: Message) -> Message:
    return {"is": "reopen", **which}


def draining() -> Message:
    return {"is": "draining"}


def notify(words: str) -> Message:
    return {"is": "notify", "words": words}


def successor(pid: int, code: int) -> Message:
    return {"is": "successor", "pid": pid, "code": code}


def done(code: int) -> Message:
    return {"is": "done", "code": code}


# ------------------------------------------------------------------------------------------------ spare and guardian


def spare(pid: int) -> Message:
    return {"is": "spare", "pid": pid}


def loaded(pid: int) -> Message:
    return {"is": "loaded", "pid": pid}


def begin() -> Message:
    return {"is": "begin"}


# --------------------------------------------------------------------------------- the fork server, and what it forks


def fork() -> Message:
    return {"is": "fork"}


def forked(pid: int | None) -> Message:
    return {"is": "forked", "pid": pid}


def become_keeper(place: int, directory: str | None, logged: list[str], *, gated: bool) -> Message:
    return {"is": "keeper", "place": place, "directory": directory, "logged": logged, "gated": gated}


def become_logger(pipes: list[str], *, again: bool) -> Message:
    return {"is": "logger", "pipes": pipes, "again": again}


# ---------------------------------------------------------------------------------------- to keepers, and from them


def worker() -> Message:
    return {"is": "worker"}


def execute(kill_at: float, not_after: float, memo: bytes) -> Message:
    return {"is": "execute", "deadline": kill_at, "not_after": not_after, "memo": memo}


def deadline(kill_at: float, memo: bytes) -> Message:
    return {"is": "deadline", "at": kill_at, "memo": memo, "brief": True, "silent": True}


def signal(signum: int, to: str) -> Message:
    return {"is": "signal", "signum": signum, "to": to}


def watch(within: float) -> Message:
    return {"is": "watch", "within": within}


def probe(number: int, argv: list[bytes], timeout: float) -> Message:
    return {"is": "probe", "n": number, "argv": argv, "timeout": timeout}


def hook(name: str) -> Message:
    return {"is": "hook", "name": name}


def end(cause: str, *, announced: bool) -> Message:
    return {"is": "end", "cause": cause, "announced": announced}


def kill(*, after: bool = False) -> Message:
    return {"is": "kill", "after": after}


def leave() -> Message:
    return {"is": "leave"}


def state(spec: Message) -> Message:
    """Return the first state of a keeper, before it has done anything."""
    nothing = dict.fromkeys(
        (
            *("pid", "started", "failed", "status", "exited_at", "killed", "killed_at"),
            *("ready", "extended", "unhealthy", "unlimited"),
        )
    )
    probe = {"probe": 0, "probe_status": None, "probe_failed": None}
    known = {"deadline": spec["deadline"], "memo": spec["memo"]}
    return {
        "is": "state",
        **term_of(spec),
        **known,
        **nothing,
        "empty": False,
        "undying": [],
        "keeper": None,
        "says": "",
        **probe,
        "hooks": {},
    }


def acknowledged(kill_at: float) -> Message:
    return {"is": "acknowledged", "deadline": kill_at}


def state_with_pipes(state: Message, pipes: list[str]) -> Message:
    """Return the state as a worker gets it; ``pipes`` names the descriptors that go along."""
    return {**state, "fds": pipes}

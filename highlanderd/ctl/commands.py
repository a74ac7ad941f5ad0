"""What each command of ``highlanderctl`` asks, prints and exits with."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

from highlanderd import __version__
from highlanderd.ctl import tables
from highlanderd.ctl.choice import chosen, exact, one_named
from highlanderd.ctl.client import Answer, ControlClient
from highlanderd.ctl.exchange import segment
from highlanderd.ctl.printing import give
from highlanderd.durations import shown
from highlanderd.errors import (
    DONE,
    NOT_LEADING,
    ConfigurationError,
    DaemonUnreachable,
    HighlanderError,
    NoSuchNode,
    NoSuchProgram,
    TimedOut,
    Unanswered,
    enumerated,
)

REOPENING: Final = 5.0
"""Seconds that the daemon may wait for a logger whose disk hangs."""
LEDGER_PATIENCE: Final = 60.0
"""Seconds that the daemon may need to change the ledger: it also waits for standbys to have it on their disks."""
FILES_PATIENCE: Final = 60.0
"""Seconds that the daemon may take to read its files: a minute is for a slow disk."""
LOOK_AGAIN: Final = 0.05
"""Seconds between two looks whether the daemon is there."""
LENGTHS: Final = ("lease", "lease_in_force", "ceiling")
"""Those of the ledger's facts that are seconds."""
LEADER_UNKNOWN: Final = "PostgreSQL does not say who leads it"
AT_ONCE: Final = 200
"""Orders under way; the daemon takes 512 connections."""

Command = Callable[[ControlClient, Namespace], int]
"""Prints an answer, and returns the exit code."""


# --------------------------------------------------------------------------------------------------------- questions


def show(daemon: ControlClient, arguments: Namespace) -> int:
    """Print one program, or several with an empty line between them."""
    names = list(dict.fromkeys(arguments.names))
    if alone := one_named(names):
        answers = [daemon.detail(names[0])]
    else:
        known = chosen(names, daemon.status()["programs"])
        answers = [daemon.detail(program["name"]) for program in known]
    shown_each = [tables.detail(answer, tables.age(answer, time.time())) for answer in answers]
    lines = [line for lines in shown_each for line in ("", *lines)][1:]
    give(arguments, answers[0] if alone else {"programs": answers}, lambda: lines)
    return DONE


def config(daemon: ControlClient, arguments: Namespace) -> int:
    from highlanderd.ctl.direct import asked  # of these commands for this one alone

    answer = asked(daemon, arguments).ask("GET", f"/v1/programs/{segment(arguments.name)}/config")
    rows = [("KEY", "VALUE", "FROM")]
    rows += [(one["key"], tables.plain(one["toml"].partition(" = ")[2]), one["from"]) for one in answer["keys"]]
    lines = [f"{tables.plain(one['toml']):56}  # {one['from']}" for one in answer["keys"]]
    give(arguments, answer, lambda: lines, lambda: rows)
    return DONE


def pid(daemon: ControlClient, arguments: Namespace) -> int:
    """Print nothing on standard output for a program without a process: its reader may be ``kill``."""
    programs = chosen(arguments.names, daemon.status()["programs"])
    alone = one_named(arguments.names)
    found = [(tables.plain(program["name"]), str(program["pid"])) for program in programs if program["pid"]]
    facts = {"programs": [{"name": program["name"], "pid": program["pid"]} for program in programs]}
    if found or arguments.output == "json":
        give(
            arguments, facts, lambda: [number if alone else f"{name} {number}" for name, number in found], lambda: found
        )
    for program in programs:
        if not program["pid"]:
            name = tables.plain(program["name"])
            print(f"highlanderctl: {name} has no process on this node: it is {program['state']}", file=sys.stderr)
    return DONE if all(program["pid"] for program in programs) else NOT_LEADING


def version(daemon: ControlClient, arguments: Namespace) -> int:
    if arguments.output != "json":
        print(f"highlanderctl {__version__}", flush=True)
    answer = daemon.status()
    facts = {name: answer.get(name) for name in ("node", "version", "worker", "guardian", "restart_due")}
    give(arguments, {"highlanderctl": __version__, **facts}, lambda: _versions(answer))
    return DONE


def _versions(answer: Answer) -> Iterator[str]:
    yield f"highlanderd {answer['version']} on {answer['node']}"
    if answer.get("restart_due"):
        version = answer["guardian"]["version"] or "an early version"
        yield f"its guardian and keepers {version}; a restart is due since {answer['restart_due']}"


# ------------------------------------------------------------------------------------------------------------ orders


def release(daemon: ControlClient, arguments: Namespace) -> int:
    body: dict[str, Any] = {"to": arguments.to} if arguments.to is not None else {}
    if arguments.force:
        body["force"] = True
    if arguments.stay_out is not None:
        body["for"] = arguments.stay_out
    return _order_led(daemon, "release", arguments, body)


def start(daemon: ControlClient, arguments: Namespace) -> int:
    if arguments.everywhere:
        return _everywhere(daemon, "start", arguments)
    named, programs = exact(arguments.names), _programs_on(daemon, arguments)
    jobs = [one["name"] for one in programs if one.get("idle") and one["name"] not in named]  # only a name runs one now
    if jobs:
        left_out = enumerated([tables.plain(name) for name in jobs])
        print(f"highlanderctl: start leaves out what waits for its time: {left_out}", file=sys.stderr)
    return _order(daemon, "start", [one["name"] for one in programs if one["name"] not in jobs], arguments, {})


def stop(daemon: ControlClient, arguments: Namespace) -> int:
    if arguments.everywhere:
        return _everywhere(daemon, "stop", arguments)
    names = [one["name"] for one in _programs_on(daemon, arguments)]
    return _order(daemon, "stop", names, arguments, {"force": arguments.force})


def _everywhere(daemon: ControlClient, verb: str, arguments: Namespace) -> int:
    """Order it of programs of the whole cluster, also of those that this node does not have."""
    names = [program["name"] for program in _of_cluster(daemon, arguments.names)]
    return _order(daemon, verb, names, arguments, {"everywhere": True})


def drain(daemon: ControlClient, arguments: Namespace) -> int:
    body = {"reason": arguments.reason, "force": arguments.force, **_nodes(arguments)}
    answer = _ledger_order(daemon, "/v1/drain", body, arguments)
    names = [tables.plain(name) for name in answer["nodes"]]
    give(arguments, answer, lambda: [f"{name}: drained until 'highlanderctl resume {name}'" for name in names])
    return DONE


def resume(daemon: ControlClient, arguments: Namespace) -> int:
    answer = _ledger_order(daemon, "/v1/resume", {"reason": arguments.reason, **_nodes(arguments)}, arguments)
    resumed = [tables.plain(name) for name in answer["nodes"]]
    asked_for = arguments.nodes or ([] if resumed else [daemon.status()["node"]])
    others = [name for name in map(tables.plain, asked_for) if name not in resumed]
    lines = [*(f"{name}: resumed" for name in resumed), *(f"{name}: was not drained" for name in others)]
    give(arguments, answer, lambda: lines)
    return DONE


def _nodes(arguments: Namespace) -> dict[str, Any]:
    return {"nodes": arguments.nodes} if arguments.nodes else {}


def _ledger_order(daemon: ControlClient, resource: str, body: dict[str, Any], arguments: Namespace) -> Answer:
    """Return the answer to an order that is written into the ledger, and that may be waited for after that."""
    waited = _waited(arguments)
    return daemon.ask("POST", resource, body | waited, LEDGER_PATIENCE + waited.get("timeout", 0.0))


def _waited(arguments: Namespace) -> dict[str, Any]:
    """Return what an order says of how long the client waits for it."""
    return {"wait": True, "timeout": arguments.timeout} if arguments.wait else {"wait": False}


def restart(daemon: ControlClient, arguments: Namespace) -> int:
    return _order_led(daemon, "restart", arguments, {})


def signal(daemon: ControlClient, arguments: Namespace) -> int:
    return _order_led(daemon, "signal", arguments, {"signal": arguments.signal, "tree": arguments.tree})


def _order_led(daemon: ControlClient, verb: str, arguments: Namespace, more: dict[str, Any]) -> int:
    """Order something of programs, each on the node that leads it; with ``--on``, only where that node does.

    A glob and ``all`` choose from those that are led, and name the others. The daemon refuses the order for a named one
    that no node leads.
    """
    named, on = exact(arguments.names), arguments.on
    programs = _of_cluster(daemon, arguments.names)
    led = [p["name"] for p in programs if p["name"] in named or (p["leader"] if on is None else p["leader"] == on)]
    if not led:
        if on is not None:
            _refuse_unknown(daemon, on)
        where = "led at the moment" if on is None else f"led by {on}"
        print(f"highlanderctl: nothing to {verb}: none of these programs is {where}", file=sys.stderr)
        return NOT_LEADING
    if unled := [tables.plain(p["name"]) for p in programs if p["leader"] is None and p["name"] not in named]:
        print(f"highlanderctl: {verb} leaves out what no node leads now: {enumerated(unled)}", file=sys.stderr)
    return _order(daemon, verb, led, arguments, more)


def _refuse_unknown(daemon: ControlClient, node: str) -> None:
    """Raise NoSuchNode for a node that no daemon has written down, as far as PostgreSQL says so."""
    known = [one["name"] for one in _cluster(daemon)["nodes"]]
    if known and node not in known:
        raise NoSuchNode.among([node], known)


def _programs_on(daemon: ControlClient, arguments: Namespace) -> list[Answer]:
    """Return the programs that are chosen from those of the node that the order is for.

    A glob and ``all`` choose from those that it has. That node refuses the order for a named one that it has not.
    """
    if arguments.on is None:
        return _programs_here(daemon, arguments.names)
    named, lacking = exact(arguments.names), _lacked(daemon, arguments.on)
    found = _of_cluster(daemon, arguments.names)
    programs = [one for one in found if one["name"] in named or one["name"] not in lacking]
    if not programs:
        names = enumerated([one["name"] for one in found])
        raise NoSuchProgram(f"{arguments.on} has none of these programs: {names}")
    return programs


def _programs_here(daemon: ControlClient, names: Sequence[str]) -> list[Answer]:
    return chosen(names, daemon.status()["programs"], lambda *refused: _not_here(daemon, *refused))


def _not_here(daemon: ControlClient, name: str, here: Iterable[str]) -> NoSuchProgram:
    """Return the refusal of a name that this node has not: it says which nodes have it, as far as PostgreSQL does.

    A glob is looked for here alone. Raises Interrupted where the daemon is ending, and has done with the program.
    """
    if not exact([name]):
        return NoSuchProgram.among(name, here)
    with suppress(NoSuchProgram):
        daemon.detail(name)
    found = (one for one in _cluster(daemon)["programs"] if one["name"] == name)
    if nodes := sorted({node for one in found for node in _nodes_with(one)}):
        where = f"it is on {enumerated(nodes)}, so add --on {nodes[0]}"
        return NoSuchProgram(f"no program {name!r} is configured on this node; {where}")
    return NoSuchProgram.among(name, here)


def _nodes_with(program: Answer) -> Iterator[str]:
    yield from (node for node in (program["leader"], *program["candidates"]) if node is not None)
    yield from (one["node"] for one in program["unable"])


def _lacked(daemon: ControlClient, node: str) -> set[str]:
    """Return the programs of the cluster that a node does not have, as far as PostgreSQL says so."""
    cluster = _cluster(daemon)
    if all(one["name"] != node for one in cluster["nodes"]):
        return set()
    return {program["name"] for program in cluster["programs"] if node not in _nodes_with(program)}


def _cluster(daemon: ControlClient) -> Answer:
    try:
        return daemon.ask("GET", "/v1/cluster")
    except HighlanderError:  # PostgreSQL does not answer
        return {"nodes": [], "programs": []}


def _of_cluster(daemon: ControlClient, names: Sequence[str]) -> list[Answer]:
    """Return the chosen programs of this node, and then those that only others have, if PostgreSQL says which."""
    here: list[Answer] = daemon.status()["programs"]
    ours = {program["name"] for program in here}
    try:
        everywhere = daemon.ask("GET", "/v1/cluster")["programs"]
    except HighlanderError as error:
        why = str(error)
        return chosen(names, here, lambda name, known: Unanswered.about(name, known, why))
    others = [program for program in everywhere if program["name"] not in ours]
    return chosen(names, [*here, *others], NoSuchProgram.anywhere)


def _order(daemon: ControlClient, verb: str, names: Sequence[str], arguments: Namespace, more: dict[str, Any]) -> int:
    """Send one order for many programs at once; return the highest exit code of the outcomes."""
    body: dict[str, Any] = {**more, "reason": arguments.reason, **_waited(arguments)}
    if arguments.on is not None:
        body["node"] = arguments.on
    worst, warnings, outcomes = DONE, dict[str, None](), list[Answer]()
    for first in range(0, len(names), AT_ONCE):
        batch = names[first : first + AT_ONCE]
        under_way = [(name, daemon.order(name, verb, body, body.get("timeout", 0.0))) for name in batch]
        for name, answer in under_way:
            try:
                given = answer()
                warnings |= dict.fromkeys(given.get("warnings", ()))
                outcomes.append(given["program"])
                if arguments.output != "json":
                    print(_outcome(given["program"], verb, arguments), flush=True)
            except HighlanderError as error:
                outcomes.append({"name": name, "error": {"code": error.code, "message": str(error)}})
                print(f"highlanderctl: {verb} {name}: {error}", file=sys.stderr)
                worst = max(worst, error.exit_code)
    if arguments.output == "json":
        print(json.dumps({"programs": outcomes}, indent=2))
    _warn(warnings)
    return worst


def _warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        print(f"warning: {tables.plain(warning)}", file=sys.stderr)


def _outcome(program: Answer, verb: str, arguments: Namespace) -> str:
    name, state = tables.plain(program["name"]), program.get("state")
    if verb == "release" and state == "leading" and arguments.to == program["leader"]:
        return f"{name}: {arguments.to} leads it already, epoch {program['epoch']}"
    if not arguments.wait:
        return f"{name}: {verb} ordered"
    if verb == "signal":
        return f"{name}: {arguments.signal} sent"
    if state is None:  # of the whole cluster
        return f"{name}: {_place(program, verb)}"
    if state == "leading":
        return f"{name}: leading, epoch {program['epoch']}, pid {program['pid']}"
    if program.get("finished"):
        return f"{name}: {tables.finished(program)}"
    leader = f"led by {tables.plain(program['leader'])}" if program["leader"] else ""
    if state == "stopped":
        known = f"{leader or 'no node leads it'} now" if leader or program.get("connected", True) else LEADER_UNKNOWN
        return f"{name}: stopped on {arguments.on or 'this node'}; {known}"
    waits = leader or (tables.plain(program["reason"]) if program.get("idle") else "")
    return f"{name}: {state}" + (f", {waits}" if waits else "")


def _place(program: Answer, verb: str) -> str:
    """Return where a program of the whole cluster is led, or what it waits for once it may be led.

    >>> _place({"leader": None, "reason": "next run at 2026-11-30T02:30:00Z"}, "start")
    'waiting, next run at 2026-11-30T02:30:00Z'
    """
    if program["leader"] is not None:
        return f"led by {tables.plain(program['leader'])}"
    waits = verb == "start" and program.get("reason")
    return f"waiting, {tables.plain(program['reason'])}" if waits else "led by no node"


# -------------------------------------------------------------------------------------------------------- whole node


def reopen(daemon: ControlClient, arguments: Namespace) -> int:
    worst, outcomes = DONE, list[Answer]()
    for name in [program["name"] for program in chosen(arguments.names, daemon.status()["programs"])]:
        try:
            outcomes.append({"name": name, **daemon.order(name, "reopen", {}, REOPENING)()})
        except HighlanderError as error:
            print(f"highlanderctl: reopen {name}: {error}", file=sys.stderr)
            worst = max(worst, error.exit_code)
    give(arguments, {"programs": outcomes}, lambda: map(_reopened, outcomes))
    return worst


def _reopened(outcome: Answer) -> str:
    done = "log files opened anew" if outcome["reopened"] else "nothing to open: it writes no log file here"
    return f"{tables.plain(outcome['name'])}: {done}"


def reload(daemon: ControlClient, arguments: Namespace) -> int:
    more = {"force": arguments.force, "reason": arguments.reason}  # early daemons know none of them
    more |= {} if arguments.dry_run else _waited(arguments)
    body = {"dry_run": arguments.dry_run} | {key: value for key, value in more.items() if value}
    try:
        answer = daemon.ask("POST", "/v1/reload", body, FILES_PATIENCE + (arguments.timeout if arguments.wait else 0.0))
    except ConfigurationError as error:
        if arguments.quiet:
            return error.exit_code
        raise
    if arguments.quiet:
        return DONE
    _warn(answer.get("warnings", ()))
    heading = ["A reload would do this:"] if arguments.dry_run and answer["changes"] else []
    give(arguments, answer, lambda: [*heading, *(answer["changes"] or ["nothing to change"])])
    return DONE


def ledger(daemon: ControlClient, arguments: Namespace) -> int:
    if arguments.action == "set-lease":
        body = {"lease": arguments.lease, "force": arguments.force, "reason": arguments.reason}
        return _lengths(daemon, "/v1/ledger/lease", body, arguments, f"the lease is {shown(arguments.lease)} now")
    if arguments.action == "migrate":
        return _migrate(daemon, arguments)
    answer = daemon.ask("GET", "/v1/ledger", patience=LEDGER_PATIENCE)
    facts = [(name, shown(value) if name in LENGTHS else value) for name, value in answer.items()]
    rows = [(name, tables.plain(value)) for name, value in facts]
    give(arguments, answer, lambda: tables.facts(facts), lambda: rows)
    return DONE


def _migrate(daemon: ControlClient, arguments: Namespace) -> int:
    answer = daemon.ask("POST", "/v1/ledger/migrate", {}, patience=LEDGER_PATIENCE)
    version, waits_for = answer["version"], answer["waits_for"]
    when = "now" if answer["migrated"] else "already"
    if arguments.output == "json" or not waits_for:
        give(arguments, answer, lambda: [f"the ledger has schema {version} {when}"])
    if waits_for:
        raise HighlanderError(
            f"the ledger stays at schema {version}; its migration waits for "
            f"{tables.plain(enumerated(waits_for))}. The daemons try it again by themselves"
        )
    return DONE


def maintenance(daemon: ControlClient, arguments: Namespace) -> int:
    body: dict[str, Any] = {"on": arguments.action == "on", "reason": arguments.reason}
    if body["on"]:
        body |= {"for": arguments.outage, "force": arguments.force}
    return _lengths(daemon, "/v1/maintenance", body, arguments, "" if body["on"] else "maintenance is off")


def _lengths(daemon: ControlClient, resource: str, body: dict[str, Any], arguments: Namespace, headline: str) -> int:
    """Order another length of leases, and print what holds then."""
    answer = _ledger_order(daemon, resource, body, arguments)
    _warn(answer.get("warnings", ()))
    give(arguments, answer, lambda: tables.lengths(answer, headline, time.time()))
    return DONE


def shutdown(daemon: ControlClient, arguments: Namespace) -> int:
    end, guardian = time.monotonic() + arguments.timeout, daemon.status().get("guardian")
    answer = daemon.ask("POST", "/v1/shutdown", {"reason": arguments.reason} if arguments.reason else {})
    node = tables.plain(answer["node"])
    give(arguments, answer, lambda: [f"{node}: releasing all programs, then ending"])
    while arguments.wait and not _has_ended(daemon, guardian):
        if time.monotonic() >= end:
            raise TimedOut(
                f"{node} still releases programs after {shown(arguments.timeout)}. The order stands; see "
                "'highlanderctl status', or wait longer with --timeout"
            )
        time.sleep(LOOK_AGAIN)
    return DONE


def _has_ended(daemon: ControlClient, guardian: Answer | None) -> bool:
    """Return whether the daemon with this guardian has ended; a service manager may have started another one."""
    try:
        return bool(daemon.status().get("guardian") != guardian)
    except DaemonUnreachable:
        return not daemon.lives


def _of(module: str, name: str) -> Command:
    """Return a command of another module, which is imported for it alone."""

    def carry_out(daemon: ControlClient, arguments: Namespace) -> int:
        command: Command = getattr(__import__(f"highlanderd.ctl.{module}", fromlist=[name]), name)
        return command(daemon, arguments)

    return carry_out


COMMANDS: Final[dict[str, Command]] = {
    "status": _of("status", "status"),
    "show": show,
    "pid": pid,
    "config": config,
    "cluster": _of("cluster", "cluster"),
    "explain": _of("explain", "explain"),
    "logs": _of("logs", "logs"),
    "events": _of("events", "events"),
    "top": _of("top", "top"),
    "history": _of("history", "history"),
    "is-leading": _of("predicates", "is_leading"),
    "wait": _of("predicates", "wait"),
    "version": version,
    "release": release,
    "start": start,
    "stop": stop,
    "restart": restart,
    "signal": signal,
    "drain": drain,
    "resume": resume,
    "reopen": reopen,
    "reload": reload,
    "renew": _of("renewal", "renew"),
    "ledger": ledger,
    "maintenance": maintenance,
    "shutdown": shutdown,
}

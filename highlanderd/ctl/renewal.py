"""The command ``renew``: orders a new worker, waits for it, and says what it has reattached."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from typing import Final

from highlanderd.ctl.client import Answer, ControlClient
from highlanderd.ctl.exchange import PATIENCE
from highlanderd.ctl.printing import give
from highlanderd.ctl.tables import plain
from highlanderd.durations import shown
from highlanderd.errors import DONE, FAILED, BadRequest, DaemonUnreachable, HighlanderError, TimedOut, enumerated

CHECK_PATIENCE: Final = 130.0
"""Seconds that the daemon may take to check the installed code: twice, a minute each, at most."""
LOOK_AGAIN: Final = 0.1
"""Seconds between two looks at the new worker."""
NO_WORKER: Final = "no new worker answers; the daemon's log says why, and its guardian goes on trying"


def renew(daemon: ControlClient, arguments: Namespace) -> int:
    began = time.monotonic()
    before = _ordered(daemon, force=arguments.force)
    for warning in before["warnings"]:
        print(plain(warning), file=sys.stderr)
    if not arguments.wait:
        give(arguments, before, lambda: [f"{plain(before['node'])}: the installed code was checked; it takes over now"])
        return DONE
    after = _taken_over(daemon, before, arguments.timeout)
    lost = {name: _why_lost(after, name, epoch) for name, epoch in before["programs"].items()}
    lost = {name: why for name, why in lost.items() if why}
    kept = sorted(before["programs"].keys() - lost)
    seconds = time.monotonic() - began
    facts = {"before": before["worker"], "after": after["worker"], "guardian": after.get("guardian")}
    report = {**facts, "reattached": kept, "lost": lost, "seconds": seconds}
    give(arguments, report, lambda: _lines(before, after, kept, seconds))
    for name, why in lost.items():
        print(f"highlanderctl: {plain(name)} was not reattached: {plain(why)}", file=sys.stderr)
    return FAILED if lost and not arguments.force else DONE


def _ordered(daemon: ControlClient, *, force: bool) -> Answer:
    try:
        return daemon.ask("POST", "/v1/renew", {"force": force}, CHECK_PATIENCE)
    except BadRequest as error:  # nothing else in this request could be wrong
        raise HighlanderError(
            "the running daemon was started before 'renew' was known; restart it when it suits you, with "
            "'systemctl restart highlanderd': its programs are handed to other nodes meanwhile"
        ) from error


def _taken_over(daemon: ControlClient, before: Answer, patience: float) -> Answer:
    """Return the status once a new worker answers and has reattached what it can. Raises TimedOut.

    The check of the installed code does not count: it has bounds of its own, and a new worker is due only after it.
    """
    names, seen = set(before["programs"]), NO_WORKER
    until = time.monotonic() + patience
    while (left := until - time.monotonic()) > 0:
        status = _asked(daemon, left)
        if status and status["worker"]["pid"] != before["worker"]["pid"]:
            waiting = [one["name"] for one in status["programs"] if one["name"] in names and one["detached"]]
            if not waiting:
                return status
            seen = f"the new worker has not reattached {enumerated(waiting)} yet; 'highlanderctl status' shows them"
        time.sleep(LOOK_AGAIN)
    raise TimedOut(f"the renewal is not over after {shown(patience)}: {plain(seen)}")


def _asked(daemon: ControlClient, within: float) -> Answer | None:
    """Return the status; None while no worker answers. Raises HighlanderError when the daemon has ended."""
    try:
        return daemon.status(patience=min(within - PATIENCE, 0.0))
    except DaemonUnreachable as error:
        if not daemon.lives:
            raise HighlanderError(f"the daemon has ended meanwhile: {error}") from error
        return None


def _why_lost(after: Answer, name: str, epoch: int) -> str:
    """Return why a program's term does not go on; empty when it does."""
    for program in after["programs"]:
        if program["name"] == name and program["state"] == "leading":
            return "" if program["epoch"] == epoch else f"it was started again, in epoch {program['epoch']}"
        if program["name"] == name:
            return f"{program['state']}: {program['reason']}".rstrip(": ")
    return "the new worker does not know it"


def _lines(before: Answer, after: Answer, kept: list[str], seconds: float) -> list[str]:
    old, new = before["worker"], after["worker"]
    lines = [
        f"{plain(after['node'])}: worker {old['version']} (pid {old['pid']}) was replaced by {new['version']} "
        f"(pid {new['pid']}) in {seconds:.1f} s",
        f"programs reattached: {len(kept)}{': ' + plain(enumerated(kept, 10)) if kept else ''}",
    ]
    if after["restart_due"]:
        lines.append(
            f"guardian and keepers are still {after['guardian']['version'] or 'an early version'}, since "
            f"{after['restart_due']}; restart the daemon when it suits you"
        )
    return lines

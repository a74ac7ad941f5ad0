"""Words of other tools that highlanderctl does not take, answered with its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

WORDS: Final[Mapping[str, str]] = {
    "switchover": "'release NAME --to NODE' moves a program to a node, and waits for that node",
    "failover": "a lost node is replaced by itself; 'release NAME' moves a program away from a node that lives",
    "pause": "'maintenance on --for DURATION' prepares for an outage of PostgreSQL; 'stop --everywhere NAME' stops a "
    "program in the whole cluster, 'drain' keeps a node from leading",
    "mask": "'stop --everywhere NAME --reason WHY' keeps a program from running anywhere, over reboots too",
    "unmask": "'start --everywhere NAME' lifts 'stop --everywhere'",
    "enable": "'start --everywhere NAME' lets a program run, 'resume NODE' a node lead",
    "disable": "'stop --everywhere NAME' keeps a program from running anywhere, 'drain NODE' a node from leading",
    "standby": "'drain NODE' keeps a node from leading, 'resume NODE' lets it lead again",
    "unstandby": "'resume NODE' lets a drained node lead again",
    "move": "'release NAME --to NODE' moves a program to a node, and leaves no rule behind",
    "kill": "'signal KILL NAME' sends a signal; 'restart NAME' stops in good order, and starts again",
    "avail": "'status' shows the programs of this node, 'cluster' those of all nodes",
    "add": "'reload' applies what the configuration says; 'reload --dry-run' only shows it",
    "remove": "'reload' applies what the configuration says; 'reload --dry-run' only shows it",
    "fg": "'logs -f NAME' follows the output of a program; nothing passes input to one",
    "maintail": "the daemon logs to its standard error: 'journalctl -u highlanderd -f'",
    "clear": "the last lines are kept in memory only; see log_max_bytes for files",
    "describe": "'show NAME' tells all about a program, 'explain NAME' why it is led where it is",
    "ps": "'status' shows the programs of this node, 'show NAME' the processes of one",
}
"""By what is typed: what does that here. What means the same is an alias instead, as ``tail`` and ``cordon`` are."""

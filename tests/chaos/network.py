"""Who hears whom. Nodes and servers have ports on one switch; a port can be muted, deafened and unplugged.

``Wires`` are real: each node and server has a network namespace of its own, and packets are lost on the way, so that
nothing is acknowledged. They take root, ``ip``, ``nft`` and ``nsenter``. ``Doors`` do what can be done without: a TCP
door (``support/proxy.py``) between each node and each server. Both sides stay where they are; bytes wait instead of
being lost.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Protocol

from tests.support.postgres import LOOPBACK, Cluster, Place
from tests.support.proxy import Door

TOOLS = ("ip", "nft", "nsenter", "unshare")
PROBE = "ip link add name bridge type bridge && ip link add name one type veth peer name other && nft -f -"
"""What a bed will do: a container's root may be refused any of it."""
SWITCH = "switch"
HARDWARE = "02:00:00:00:00:"
FILTER = """
table bridge chaos {
    set mute { type ifname; }
    set deaf { type ifname; }
    set lossy { type ifname; }
    chain forward {
        type filter hook forward priority 0;
        iifname @mute drop
        oifname @deaf drop
        iifname @lossy numgen random mod 10 < 4 drop
        oifname @lossy numgen random mod 10 < 4 drop
    }
}
"""


class Network(Protocol):
    """What a bed needs of a network. Names are those of nodes and of servers."""

    real: bool
    """Whether packets are lost, and machines have addresses of their own."""

    def enter(self, name: str) -> tuple[str, ...]:
        """Return the words before a command that make it run at ``name``."""

    def place(self, name: str) -> Place:
        """Return where a server of this name is to run."""

    def way(self, node: str, name: str, server: Cluster) -> tuple[str, int]:
        """Return host and port under which a node reaches the server ``name``."""

    def mute(self, name: str) -> None:
        """Let nothing out that it says."""

    def deafen(self, name: str) -> None:
        """Let nothing in."""

    def unplug(self, name: str) -> None:
        """Pull the plug."""

    def spoil(self, name: str) -> None:
        """Lose four in ten packets, each way. For real networks only."""

    def part(self, node: str, name: str) -> None:
        """Let a node lose one server; ``heal`` of the node undoes it."""

    def heal(self, name: str) -> None:
        """Undo all of it."""

    def close(self) -> None:
        """Leave nothing."""


@cache
def namespaces_lacking() -> str:
    """Say why there can be no namespaces here; empty when there can."""
    if os.geteuid() != 0:
        return "network namespaces take root"
    if tools := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"network namespaces take {', '.join(tools)}"
    command = ["unshare", "--net", "sh", "-c", PROBE]
    tried = subprocess.run(command, input=FILTER, capture_output=True, text=True, check=False)
    return f"network namespaces are refused here: {tried.stderr.strip()}" if tried.returncode else ""


class Wires:
    """Namespaces on a bridge that lies in a namespace of its own. ``paths`` lead to them, the bridge's first."""

    real = True

    def __init__(self, names: list[str], paths: list[str]) -> None:
        self._paths = dict(zip([SWITCH, *names], paths, strict=True))
        self._addresses = {name: f"10.77.0.{number}" for number, name in enumerate(names, 1)}
        self._struck: dict[str, set[str]] = {"mute": set(), "deaf": set(), "lossy": set()}
        self._parted: set[tuple[str, str]] = set()
        self._ip(SWITCH, "link add name bridge type bridge", "link set bridge up", "link set lo up")
        for name in names:
            self._plug(name)
        for name in names:
            self._introduce(name)
        self._run(SWITCH, "nft", "-f", "-", given=FILTER)

    def enter(self, name: str) -> tuple[str, ...]:
        """Return the words before a command that make it run at ``name``."""
        return ("nsenter", f"--net={self._paths[name]}")

    def place(self, name: str) -> Place:
        """Return where a server of this name is to run."""
        return Place(self._addresses[name], self.enter(name))

    def way(self, node: str, name: str, server: Cluster) -> tuple[str, int]:  # noqa: ARG002 - all nodes go one way
        """Return host and port under which a node reaches the server ``name``."""
        return self._addresses[name], server.port

    def mute(self, name: str) -> None:
        """Let nothing out that it says."""
        self._strike("mute", name)

    def deafen(self, name: str) -> None:
        """Let nothing in."""
        self._strike("deaf", name)

    def unplug(self, name: str) -> None:
        """Take the link down on the side of the switch."""
        self._ip(SWITCH, f"link set {_port(name)} down")

    def spoil(self, name: str) -> None:
        """Lose four in ten packets, each way."""
        self._strike("lossy", name)

    def part(self, node: str, name: str) -> None:
        """Let a node lose one server; ``heal`` of the node undoes it."""
        self._parted.add((node, name))
        self._ip(node, f"route add blackhole {self._addresses[name]}")

    def heal(self, name: str) -> None:
        """Undo all of it."""
        for node, other in [pair for pair in self._parted if pair[0] == name]:
            self._parted.discard((node, other))
            self._ip(node, f"route del blackhole {self._addresses[other]}")
        self._ip(SWITCH, f"link set {_port(name)} up")
        for how, names in self._struck.items():
            if name in names:
                names.discard(name)
                self._run(SWITCH, "nft", f"delete element bridge chaos {how} {{ {_port(name)} }}")

    def close(self) -> None:
        """The namespaces end with the undertaker."""

    def _strike(self, how: str, name: str) -> None:
        self._struck[how].add(name)
        self._run(SWITCH, "nft", f"add element bridge chaos {how} {{ {_port(name)} }}")

    def _plug(self, name: str) -> None:
        there = self._paths[name]
        link = f"link add name {_port(name)} type veth peer name eth0 netns {there}"
        self._ip(SWITCH, link, f"link set {_port(name)} master bridge up")
        number = self._addresses[name].rpartition(".")[2]
        there_up = f"link set eth0 address {HARDWARE}{int(number):02x} up"
        self._ip(name, "link set lo up", f"addr add {self._addresses[name]}/24 dev eth0", there_up)

    def _introduce(self, name: str) -> None:
        """Tell it everybody's hardware address: asked for at a bad moment, it would prolong a partition by a second."""
        others = [address for other, address in self._addresses.items() if other != name]
        known = [(address, int(address.rpartition(".")[2])) for address in others]
        self._ip(
            name, *(f"neigh add {one} lladdr {HARDWARE}{number:02x} dev eth0 nud permanent" for one, number in known)
        )

    def _ip(self, name: str, *lines: str) -> None:
        self._run(name, "ip", "-batch", "-", given="\n".join(lines))

    def _run(self, name: str, *command: str, given: str = "") -> None:
        done = subprocess.run([*self.enter(name), *command], input=given, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)} {given}: {done.stderr}"


class Doors:
    """TCP doors, one between each node and each server, made when a node asks its way."""

    real = False

    def __init__(self) -> None:
        self._doors: dict[tuple[str, str], Door] = {}

    def enter(self, name: str) -> tuple[str, ...]:  # noqa: ARG002 - all are in one place
        """Nothing to enter."""
        return ()

    def place(self, name: str) -> Place:  # noqa: ARG002
        """Return where a server of this name is to run."""
        return LOOPBACK

    def way(self, node: str, name: str, server: Cluster) -> tuple[str, int]:
        """Return host and port of the door."""
        if (node, name) not in self._doors:
            self._doors[node, name] = Door(LOOPBACK.host, server.port)
        return LOOPBACK.host, self._doors[node, name].port

    def mute(self, name: str) -> None:
        """Hold up what it says: a node asks, a server answers."""
        for (node, _), door in self._of(name):
            door.stall("questions" if node == name else "answers")

    def deafen(self, name: str) -> None:
        """Hold up what is said to it."""
        for (node, _), door in self._of(name):
            door.stall("answers" if node == name else "questions")

    def unplug(self, name: str) -> None:
        """Hold up everything: a plug that is pulled tells nobody."""
        for _, door in self._of(name):
            door.stall()

    def spoil(self, name: str) -> None:
        """Doors lose nothing."""
        raise AssertionError(f"only wires lose packets of {name}")

    def part(self, node: str, name: str) -> None:
        """Let a node lose one server; ``heal`` of the node undoes it."""
        self._doors[node, name].stall()

    def heal(self, name: str) -> None:
        """Open its doors."""
        for _, door in self._of(name):
            door.heal()

    def close(self) -> None:
        """Close every door."""
        for door in self._doors.values():
            door.close()

    def _of(self, name: str) -> list[tuple[tuple[str, str], Door]]:
        return [(ends, door) for ends, door in self._doors.items() if name in ends]


def _port(name: str) -> str:
    return f"to-{name}"


class Undertaker:
    """The process that holds a bed's namespaces and buries the bed, whatever becomes of us."""

    def __init__(self, directory: Path, namespaces: int) -> None:
        script = Path(__file__).with_name("undertaker.py")
        command = [sys.executable, "-I", "-S", str(script), str(namespaces)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True, cwd=directory
        )
        assert self._process.stdout is not None
        self.paths = self._process.stdout.readline().split()
        assert len(self.paths) == namespaces, "the undertaker says on standard error why it has no namespaces"

    def bury(self) -> None:
        """Let it do its work, and wait for it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.communicate(timeout=60)

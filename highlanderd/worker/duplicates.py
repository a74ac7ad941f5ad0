"""Daemons that contradict this one: two with one node name, and one program under two lock keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from highlanderd.postgres.survey import Leader


class Duplicates:
    """Compares each survey of the leaders with the one before it, and alarms for what contradicts this daemon."""

    def __init__(self, node: str, instance: str, alarm: Callable[[str], None]) -> None:
        self._node, self._instance, self._alarm = node, instance, alarm
        self._before: Mapping[int, Leader] = {}

    def compare(self, leaders: Mapping[int, Leader]) -> None:
        """Look at the leaders, by lock id, that the latest survey showed."""
        before, self._before = self._before, leaders
        for text in divided_keys(leaders, self._instance):
            self._alarm(text)
        for text in duplicate_nodes(before, leaders, self._node, self._instance):
            self._alarm(text)


def duplicate_nodes(
    before: Mapping[int, Leader], after: Mapping[int, Leader], node: str, instance: str
) -> Iterator[str]:
    """Name another daemon that leads under this node's name.

    A former life of this daemon does not count: only a living daemon renews between two surveys.
    """
    for lock_id, leader in after.items():
        known = before.get(lock_id)
        same_name = leader.node == node and leader.instance != instance
        if same_name and leader.leads and known is not None and known.instance == leader.instance and known != leader:
            yield (
                f'another daemon also calls itself "{node}": no page can tell the two apart; give each its own '
                "daemon.node"
            )


def divided_keys(leaders: Mapping[int, Leader], instance: str) -> Iterator[str]:
    """Name each program that is led here and on another node, because that node's file gives it another lock key."""
    here = {
        leader.program: lock_id for lock_id, leader in leaders.items() if leader.leads and leader.instance == instance
    }
    for lock_id, leader in leaders.items():
        if leader.leads and here.get(leader.program, lock_id) != lock_id:
            yield (
                f"{leader.program} is led here under lock id {here[leader.program]} and by {leader.node} under lock id "
                f"{lock_id}: two copies run; give it one lock_key on all nodes"
            )

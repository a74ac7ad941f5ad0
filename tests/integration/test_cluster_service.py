"""A daemon under a service manager: what it says, when, and that its main process alone says it."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from highlanderd.errors import HighlanderError
from highlanderd.guardian.watchdog import MOST_UNSENT, OVERDUE, SOONEST, ServiceNotifier
from highlanderd.system.linux import NEVER, boottime
from tests.support.deaths import gone
from tests.support.nodes import PATIENCE, Node, Nodes, settled_ledger
from tests.support.postgres import Database
from tests.support.processes import state
from tests.support.proxy import OpensDoors
from tests.support.services import ServiceManager
from tests.support.wait import wait_for

LEASE = 10.0
"""Seconds; on a busy machine nobody is silent for 3/10 of it who is not frozen."""
BEAT = "[program.beat]"
OF_THE_UNIT, OF_THE_LEASE = "60000000", "7000000"
STUBBORN = """
[program.beat]
command = ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]
stop_timeout = 8
"""


def _launched(nodes: Nodes, dsn: str, manager: ServiceManager, programs: str = BEAT, lease: float = LEASE) -> Node:
    """Start a daemon as systemd would."""
    node = Node("a", nodes.directory / "a", dsn, lease, nodes.journal)
    node.environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": OF_THE_UNIT}
    nodes.nodes.append(node)
    node.configure(programs)
    node.start()
    return node


def _started(nodes: Nodes, database: Database, manager: ServiceManager, programs: str = BEAT, dsn: str = "") -> Node:
    """Start one, and wait until it leads."""
    settled_ledger(database, LEASE)
    node = _launched(nodes, dsn or database.dsn, manager, programs)
    wait_for(lambda: "leading 1" in manager.values("STATUS"), PATIENCE, "it says that it leads")
    return node


def test_it_is_ready_once_it_can_be_asked_and_its_main_process_says_so(
    nodes: Nodes, database: Database, service_manager: ServiceManager
) -> None:
    node = _started(nodes, database, service_manager)
    wait_for(lambda: service_manager.values("READY") == ["1"], PATIENCE, "it says that it is ready")
    assert {notice.pid for notice in service_manager.heard()} == {node.guardian}


def test_it_is_ready_without_a_database(nodes: Nodes, service_manager: ServiceManager) -> None:
    node = Node("a", nodes.directory / "a", "postgresql://127.0.0.1:1/none", LEASE, nodes.journal)
    node.environment = {"NOTIFY_SOCKET": service_manager.address}
    nodes.nodes.append(node)
    node.configure("[program.beat]")
    node.start()
    wait_for(lambda: service_manager.values("READY"), PATIENCE, "it is ready")
    assert node.status()["programs"][0]["state"] == "waiting"
    wait_for(
        lambda: any("; PostgreSQL: " in line for line in service_manager.values("STATUS")), PATIENCE, "it says why"
    )
    assert service_manager.values("WATCHDOG") == []


def test_the_watchdog_is_as_short_as_the_lease_asks_and_a_new_worker_has_until_its_children_are_overdue(
    nodes: Nodes, database: Database, service_manager: ServiceManager
) -> None:
    node = _started(nodes, database, service_manager)
    assert OF_THE_LEASE in service_manager.values("WATCHDOG_USEC")
    before = len(service_manager.values("WATCHDOG_USEC"))
    os.kill(node.worker, signal.SIGKILL)
    wait_for(
        lambda: (
            len(service_manager.values("READY")) == 2 and service_manager.values("WATCHDOG_USEC")[-1] == OF_THE_LEASE
        ),
        PATIENCE,
        "another worker works",
    )
    spared = service_manager.values("WATCHDOG_USEC")[before]
    assert int(spared) < (0.9 + OVERDUE) * LEASE * 1e6


def test_a_new_worker_has_the_units_own_time_where_nothing_runs(
    nodes: Nodes, database: Database, service_manager: ServiceManager
) -> None:
    node = _started(nodes, database, service_manager)
    node.order("stop", "beat")
    wait_for(lambda: "stopped 1" in service_manager.values("STATUS"), PATIENCE, "it says that nothing runs")
    assert OF_THE_UNIT not in service_manager.values("WATCHDOG_USEC")
    os.kill(node.worker, signal.SIGKILL)
    wait_for(lambda: OF_THE_UNIT in service_manager.values("WATCHDOG_USEC"), PATIENCE, "its worker is dead")


def test_without_postgresql_the_watchdog_does_not_outlast_the_childrens_time_and_the_daemon_lives(
    nodes: Nodes, database: Database, service_manager: ServiceManager, door: OpensDoors
) -> None:
    """At whatever moment of it the daemon is frozen as a whole: it is dead before another node may lead."""
    way = door(database.dsn)
    node = _started(nodes, database, service_manager, STUBBORN, way.dsn(database.dsn))
    child = wait_for(lambda: node.program("beat")["pid"], PATIENCE, "its child runs")
    way.cut()
    cut_at, trusted_until = boottime(), node.trusted_until("beat")
    wait_for(lambda: gone(child), PATIENCE, "the child was fenced")
    fenced = len(service_manager.heard())
    promises = [notice for notice in service_manager.heard() if "WATCHDOG_USEC" in notice.words]
    pressed = [notice for notice in promises if notice.at > cut_at and notice.words["WATCHDOG_USEC"] != OF_THE_LEASE]
    assert len(pressed) > 3
    for notice in pressed:
        assert notice.at + int(notice.words["WATCHDOG_USEC"]) / 1e6 < trusted_until + 0.05 * LEASE
    wait_for(
        lambda: service_manager.values("WATCHDOG_USEC")[-1] == OF_THE_LEASE, PATIENCE, "nothing is overdue any more"
    )
    wait_for(lambda: len(service_manager.heard()) > fenced + 3, PATIENCE, "and it goes on")
    assert node.runs


def test_nobody_feeds_the_watchdog_while_the_guardian_is_frozen(
    nodes: Nodes, database: Database, service_manager: ServiceManager
) -> None:
    node = _started(nodes, database, service_manager)
    node.freeze(node.guardian)
    wait_for(lambda: state(node.guardian) == "T", PATIENCE, "it stands still")
    before = len(service_manager.heard())
    wait_for(lambda: "the guardian has not answered for" in node.log.read_text(), PATIENCE, "the worker notices")
    assert len(service_manager.heard()) == before
    node.thaw()
    assert node.ended() == 1


def test_a_reload_is_begun_and_ended(nodes: Nodes, database: Database, service_manager: ServiceManager) -> None:
    node = _started(nodes, database, service_manager)
    node.configure("[program.beat]\nbackoff = 0.5\n")
    node.signal(signal.SIGHUP)
    wait_for(lambda: len(service_manager.values("READY")) == 2, PATIENCE, "the reload is over")
    node.file.write_text("[colours]\n")
    with pytest.raises(HighlanderError):
        node.control.ask("POST", "/v1/reload")
    wait_for(lambda: len(service_manager.values("READY")) == 3, PATIENCE, "the failed one is over, too")
    order = [name for notice in service_manager.heard() for name in notice.words if name in ("READY", "RELOADING")]
    assert order == ["READY", *["RELOADING", "READY"] * 2]


def test_a_long_drain_asks_for_time_until_it_is_over(
    nodes: Nodes, database: Database, service_manager: ServiceManager
) -> None:
    node = _started(nodes, database, service_manager, STUBBORN)
    node.signal(signal.SIGTERM)
    assert node.ended() == 0
    asked = [notice for notice in service_manager.heard() if "EXTEND_TIMEOUT_USEC" in notice.words]
    assert len(asked) >= 3
    assert all(notice.words["STOPPING"] == "1" for notice in asked)
    assert "draining 1" in service_manager.values("STATUS")


@pytest.mark.long  # beside a long drain
def test_the_last_word_of_each_cycle_of_a_drain_is_a_sign_of_life(
    nodes: Nodes, database: Database, service_manager: ServiceManager
) -> None:
    """An extension moves systemd's watchdog, too: after it a frozen daemon would be killed long after its lease."""
    node = _started(nodes, database, service_manager, STUBBORN)
    node.signal(signal.SIGTERM)
    assert node.ended() == 0
    heard = [notice for notice in service_manager.heard() if {"EXTEND_TIMEOUT_USEC", "WATCHDOG"} & notice.words.keys()]
    begun = next(number for number, notice in enumerate(heard) if "EXTEND_TIMEOUT_USEC" in notice.words)
    silence = {"EXTEND_TIMEOUT_USEC": 0.0, "WATCHDOG": 0.0}
    for before, after in pairwise(heard[begun:]):
        silence["WATCHDOG" if "WATCHDOG" in before.words else "EXTEND_TIMEOUT_USEC"] += after.at - before.at
    assert silence["EXTEND_TIMEOUT_USEC"] < silence["WATCHDOG"], "the long silence of a cycle follows its sign of life"


def test_the_watchdog_knows_the_ledgers_lease_before_anything_is_led_by_it(
    nodes: Nodes, database: Database, service_manager: ServiceManager
) -> None:
    settled_ledger(database, LEASE)
    node = _launched(nodes, database.dsn, service_manager, lease=60.0)
    nodes.await_up(node)
    wait_for(lambda: node.program("beat")["pid"], PATIENCE, "it leads")
    assert OF_THE_LEASE in service_manager.values("WATCHDOG_USEC")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may protect a process from the OOM killer")
def test_the_protection_from_the_oom_killer_is_the_daemons_alone(
    nodes: Nodes, database: Database, service_manager: ServiceManager
) -> None:
    score = Path("/proc/self/oom_score_adj")
    before = score.read_text()
    try:
        score.write_text("-500")
    except OSError:
        pytest.skip("nobody may be protected from the OOM killer here")
    try:
        node = _started(nodes, database, service_manager)
    finally:
        score.write_text(before)
    child = wait_for(lambda: node.program("beat")["pid"], PATIENCE, "its child runs")
    pids = {"guardian": node.guardian, "worker": node.worker, "keeper": node.keeper("beat"), "child": child}
    scores = {who: int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for who, pid in pids.items()}
    assert scores == {"guardian": -500, "worker": -500, "keeper": -500, "child": 0}


def test_an_abstract_address_is_understood() -> None:
    with closing(ServiceManager(f"@highlander-test-{os.getpid()}")) as manager:
        ServiceNotifier({"NOTIFY_SOCKET": manager.address}, os.getpid()).send("READY=1")
        assert manager.values("READY") == ["1"]


def test_a_watchdog_of_another_process_is_not_ours_to_feed(service_manager: ServiceManager) -> None:
    words = {"NOTIFY_SOCKET": service_manager.address, "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    service = ServiceNotifier(words, os.getpid())
    service.cycled(LEASE, NEVER)
    service.expect_no_cycles(NEVER)
    assert service_manager.heard() == []


def test_a_unit_with_a_shorter_watchdog_keeps_it(service_manager: ServiceManager) -> None:
    service = ServiceNotifier({"NOTIFY_SOCKET": service_manager.address, "WATCHDOG_USEC": "1000000"}, os.getpid())
    service.cycled(LEASE, NEVER)
    service.expect_no_cycles(NEVER)
    assert service_manager.values("WATCHDOG_USEC") == []
    assert service_manager.values("WATCHDOG") == ["1"]


def test_words_wait_for_a_service_manager_that_is_away(open_dir: Path) -> None:
    address = open_dir / "notify"
    service = ServiceNotifier({"NOTIFY_SOCKET": str(address)}, os.getpid())
    for number in range(MOST_UNSENT + 5):
        service.send(f"STATUS={number}")
    with closing(ServiceManager(str(address))) as manager:
        service.send("READY=1")
        manager.heard()  # makes room: a queue holds few
        service.send("STATUS=later")
        latest = [str(number) for number in range(5, MOST_UNSENT + 5)]
        assert manager.values("STATUS") == [*latest, "later"]
        assert manager.values("READY") == ["1"]


def test_signs_of_life_push_out_nothing_that_a_service_manager_has_to_hear(open_dir: Path) -> None:
    address = open_dir / "notify"
    service = ServiceNotifier({"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": OF_THE_UNIT}, os.getpid())
    service.send("READY=1")
    for _ in range(2 * MOST_UNSENT):
        service.cycled(LEASE, NEVER)
    with closing(ServiceManager(str(address))) as manager:
        service.cycled(LEASE, NEVER)
        assert (manager.values("READY"), manager.values("WATCHDOG_USEC")) == (["1"], [OF_THE_LEASE])


def test_a_deadline_that_comes_before_the_next_sign_of_life_is_what_counts(service_manager: ServiceManager) -> None:
    service = ServiceNotifier({"NOTIFY_SOCKET": service_manager.address, "WATCHDOG_USEC": OF_THE_UNIT}, os.getpid())
    for left in (8.0, 3.0, -1.0):
        service.cycled(LEASE, left)
        service.lengthen(left - 0.1)
    service.lengthen(NEVER)
    service.expect_no_cycles(8.5)
    service.lengthen(NEVER)
    promised = [OF_THE_LEASE, "3000000", str(int(SOONEST * 1e6)), OF_THE_LEASE, "8500000", OF_THE_UNIT]
    assert service_manager.values("WATCHDOG_USEC") == promised

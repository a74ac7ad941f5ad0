"""Claims about what real Prometheus and HAProxy make of real daemons, through failovers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.long import first_of
from tests.support.monitoring import MONITORING, expressions
from tests.support.nodes import PATIENCE, Node, Nodes, ends, settled_ledger
from tests.support.ports import reserved_port
from tests.support.postgres import Database
from tests.support.wait import wait_for

LEASE = 10.0
PAGE = Path(__file__).parents[2] / "docs/how-to/metrics-and-alerts.md"
HAPROXY = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
BUSY = "HighlanderRenewalsSlow|HighlanderFlapping"
"""They fire for minutes after a machine has stood still for seconds."""
SERVER = """
import http.server, os

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{os.environ['HIGHLANDER_NODE']} {os.environ['HIGHLANDER_EPOCH']}".encode())

    def log_message(self, *words):
        pass

http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def watched(nodes: Nodes, database: Database, programs: Callable[[str], str], *names: str) -> dict[str, str]:
    """Start daemons whose TCP listeners are open; return their addresses by name."""
    settled_ledger(database, LEASE)
    addresses = {}
    for name in names:
        node = Node(name, nodes.directory / name, database.dsn, LEASE, nodes.journal)
        addresses[name] = f"127.0.0.1:{reserved_port()}"
        node.handed_down["TEST_HOME"] = str(nodes.directory)  # the nodes' own directories would be drift
        node.configure(programs(name))
        node.file.write_text(node.file.read_text().replace('listen = ""', f'listen = "{addresses[name]}"'))
        node.start()
        nodes.nodes.append(node)
    nodes.await_up(*nodes.nodes)
    return addresses


@contextmanager
def running(command: list[str], log: Path) -> Iterator[None]:
    """Run a program of others beside the daemons."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        print(log.read_text(errors="replace")[-2000:])
        process.kill()
        process.wait()


def fetched(url: str) -> str:
    """Return what a server answers, nothing while it does not."""
    with suppress(OSError), closing(urllib.request.urlopen(url, timeout=5)) as response:  # noqa: S310 - a test's own server
        return str(response.read().decode())
    return ""


class Prometheus:
    """A Prometheus that scrapes often, and goes by the packaged rules with less patience."""

    def __init__(self, home: Path, targets: list[str]) -> None:
        home.mkdir()
        rules = re.sub(r"for: \w+", "for: 1s", (MONITORING / "alerts.yml").read_text("utf-8"))
        (home / "alerts.yml").write_text(rules, "utf-8")
        often = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "500ms"}
        scraped = {"job_name": "highlander", "static_configs": [{"targets": targets}]}
        settings = {"global": often, "rule_files": ["alerts.yml"], "scrape_configs": [scraped]}
        (home / "prometheus.yml").write_text(json.dumps(settings), "utf-8")
        self.address, self.log = f"127.0.0.1:{reserved_port()}", home / "log"
        self.command = [
            "prometheus",
            f"--config.file={home}/prometheus.yml",
            f"--storage.tsdb.path={home}/data",
            f"--web.listen-address={self.address}",
        ]

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples of an expression; none while Prometheus starts."""
        return list(self._answer(expression).get("data", {}).get("result", ()))

    def understands(self, expression: str) -> bool:
        """Return whether an expression can be computed from what was scraped."""
        return bool(self._answer(expression).get("status") == "success")

    def _answer(self, expression: str) -> dict[str, Any]:
        query = urllib.parse.urlencode({"query": expression})
        return dict(json.loads(fetched(f"http://{self.address}/api/v1/query?{query}") or "{}"))

    def value(self, expression: str) -> float | None:
        """Return the only sample of an expression."""
        found = self.ask(expression)
        return float(found[0]["value"][1]) if found else None

    def firing(self) -> dict[str, str]:
        """Return the alerts that fire, with the instance that they name, but for those of a busy machine."""
        found = [sample["metric"] for sample in self.ask(f'ALERTS{{alertstate="firing",alertname!~"{BUSY}"}}')]
        return {one["alertname"].removeprefix("Highlander"): one.get("instance", "") for one in found}

    def await_firing(self, *alerts: str) -> None:
        """Wait until exactly these alerts fire."""
        seen: list[dict[str, str]] = []

        def fire() -> bool:
            seen[:] = [self.firing()]
            return seen[0].keys() == set(alerts)

        try:
            wait_for(fire, PATIENCE)
        except AssertionError:
            raise AssertionError(f"{alerts} were to fire, and not {seen}") from None


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs prometheus, from Debian's package of that name")
def test_alerts_come_and_go_with_the_nodes(nodes: Nodes, database: Database, tmp_path: Path) -> None:
    addresses = watched(nodes, database, lambda _: "[program.beat]\n", "a", "b", "c")
    prometheus = Prometheus(tmp_path / "prometheus", list(addresses.values()))

    up = "count(highlander_build_info)"
    with running(prometheus.command, prometheus.log):
        nodes.await_led("beat")
        wait_for(lambda: prometheus.value(up) == len(addresses), PATIENCE, "all are scraped")
        prometheus.await_firing()
        candidates = 'max(highlander_program_candidates{program="beat"})'
        wait_for(lambda: prometheus.value(candidates) == 2, PATIENCE, "both standbys are scraped")
        for one in expressions():
            wait_for(partial(prometheus.understands, one), PATIENCE, f"{one} is understood")
        present = [one for one in expressions() if "[" not in one]  # not what happens now and then
        wait_for(lambda: all(map(prometheus.ask, present)), PATIENCE, "what children use is measured, too")

        first = nodes.await_led("beat")["beat"]
        first.crash()
        second = nodes.await_led("beat", without=first)["beat"]
        gone = {"NodeGone": addresses[first.name]}
        wait_for(lambda: prometheus.firing() == gone, PATIENCE, "the node that is gone is named, and no other")

        second.crash()
        last = nodes.await_led("beat", without=second)["beat"]
        prometheus.await_firing("NodeGone", "NoStandby")

        last.order("stop", "beat", everywhere=True)
        wait_for(lambda: prometheus.value("max(highlander_program_wanted)") == 0, PATIENCE, "nobody wants it")
        prometheus.await_firing("NodeGone")  # nobody leads, as ordered

        last.crash()
        prometheus.await_firing("NodeGone", "AllNodesGone")

        for node in nodes.nodes:
            node.start()
        nodes.await_up(*nodes.nodes)
        last.order("start", "beat", everywhere=True)
        wait_for(lambda: prometheus.value(up) == len(addresses), PATIENCE, "all are scraped")
        prometheus.await_firing()


class Client:
    """Asks a load balancer again and again who answers; remembers every answer."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._over = threading.Event()
        self.answers: list[tuple[str, int]] = []
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        while not self._over.wait(0.02):
            if answer := fetched(self._url):
                node, epoch = answer.split()
                self.answers.append((node, int(epoch)))

    def newest(self) -> tuple[str, int]:
        return self.answers[-1] if self.answers else ("", 0)

    def await_epoch(self, epoch: int) -> None:
        """Wait until a leader of this epoch or a later one has answered."""
        wait_for(lambda: self.newest()[1] >= epoch, PATIENCE, f"a leader of epoch {epoch} answers")

    def end(self) -> list[tuple[str, int]]:
        """Return who has answered, in order, each with its epoch."""
        self._over.set()
        self._thread.join()
        return self.answers


@pytest.mark.skipif(HAPROXY is None, reason="needs haproxy, from Debian's package of that name")
@pytest.mark.parametrize("method", first_of(["GET", "OPTIONS", "HEAD"]))
def test_a_load_balancer_finds_the_leader_through_failovers(
    method: str, nodes: Nodes, database: Database, tmp_path: Path
) -> None:
    ports = {name: reserved_port() for name in ("a", "b")}
    command = json.dumps(["python3", "-I", "-c", SERVER])
    own = '[program.counter]\ncommand = {}\nenvironment = {{ PORT = "{}" }}\n'
    addresses = watched(nodes, database, lambda name: own.format(command, ports[name]), *ports)
    front = reserved_port()
    places = {"127.0.0.1:8080": f"127.0.0.1:{front}", "meth GET": f"meth {method}"}
    for name, (served, checked) in {"a": ("8001", "9841"), "b": ("8002", "9842")}.items():
        places[f"127.0.0.1:{served} check port {checked}"] = (
            f"127.0.0.1:{ports[name]} check port {addresses[name].rpartition(':')[2]}"
        )
    file = tmp_path / "haproxy.cfg"
    file.write_text(configured(places), "utf-8")
    by_name = {node.name: node for node in nodes.nodes}
    with running([HAPROXY or "", "-db", "-f", str(file)], tmp_path / "log"):
        client = Client(f"http://127.0.0.1:{front}/")
        client.await_epoch(1)
        for strike in (lambda node: node.order("release", "counter"), Node.crash):
            name, epoch = client.newest()
            strike(by_name[name])
            client.await_epoch(epoch + 1)
        answers = client.end()
    epochs = [epoch for _, epoch in answers]
    assert epochs == sorted(epochs), "an earlier leader has answered after a later one"
    assert ends(database, "counter"), "the history has heard of the latest term"
    led = database.sql("SELECT node, epoch FROM highlander.term")
    assert {*answers} <= {*led}
    assert len(set(epochs)) > 2


def configured(places: dict[str, str]) -> str:
    """Return the configuration of the how-to page, at other places."""
    found = re.search(r"```\n(defaults\n.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert found is not None
    text = found[1]
    for old, new in places.items():
        assert old in text
        text = text.replace(old, new)
    return text

"""Answers of a program are judged, and nothing that it does instead costs the worker more than a moment."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from highlanderd.children.checks import Unwell, ask
from highlanderd.children.messages import KeeperReport
from highlanderd.children.prober import Prober
from highlanderd.config import ProgramConfig
from highlanderd.config.probes import ExecCheck, HttpCheck, Notify, Probe, TcpCheck
from highlanderd.core.events import FoundReady, FoundUnhealthy, FoundUnready
from highlanderd.core.states import Ready, Running
from highlanderd.postgres.resolver import Resolver
from highlanderd.structs import replace
from highlanderd.system.linux import boottime

REPORT = KeeperReport(7, 1.0, None, None, None, None, empty=False, deadline=60.0, memo=b"", probe=0)
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Child:
    """A child whose keeper reports what a test says."""

    def __init__(self, report: KeeperReport = REPORT) -> None:
        self.report: KeeperReport | None = report
        self.asked: list[tuple[str, ...]] = []
        self.watched: list[float] = []
        self._news = asyncio.Event()

    def say(self, **facts: Any) -> None:
        assert self.report is not None
        self.report = replace(self.report, **facts)
        self._news.set()
        self._news = asyncio.Event()

    async def news(self) -> None:
        await self._news.wait()

    def probe(self, argv: tuple[str, ...], timeout: float) -> int:  # noqa: ARG002 - it is asked in the shape of a child
        assert self.report is not None
        self.asked.append(argv)
        return (self.report.probe or 0) + 1

    def watch(self, within: float) -> None:
        self.watched.append(within)


async def answered(serve: Serve, target: str = "/", *, encrypted: bool = False, **options: Any) -> str:
    """Ask a server of ours once; gives what is wrong with its answer, empty if nothing is."""
    served = asyncio.Event()

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (OSError, EOFError):
            pass  # whoever asked has heard enough
        finally:
            writer.transport.abort()
            served.set()

    server = await asyncio.start_server(once, "127.0.0.1", 0, **options)
    port = server.sockets[0].getsockname()[1]
    check = HttpCheck("localhost", port, f"localhost:{port}", target, encrypted)
    try:
        async with asyncio.timeout(60):
            await ask(check, Resolver(), Child(), 60.0)
    except (Unwell, OSError) as error:
        return str(error) or type(error).__name__
    finally:
        await served.wait()
        server.close()
    return ""


def saying(data: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    return serve


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", ""),
        (b"HTTP/1.0 204\r\n", ""),
        (b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\n\r\n", ""),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "answered with status 503"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "answered with status 404"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "did not answer as HTTP does"),
        (b"220 mail.example ESMTP\r\n", "did not answer as HTTP does"),
        (b"\0\xff" * 3000 + b"\n", "did not answer as HTTP does: its first line has no end"),
        (b"", "closed the connection without an answer"),
    ],
)
def test_an_answer_is_judged_by_its_status(answer: bytes, wrong: str) -> None:
    assert asyncio.run(answered(saying(answer))) == wrong


def test_a_request_names_its_host_and_its_target() -> None:
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    assert asyncio.run(answered(serve, "/health?full=1")) == ""
    assert heard[0].startswith(b"GET /health?full=1 HTTP/1.1\r\nHost: localhost:")


def test_an_answer_without_an_end_is_cut_off() -> None:
    """Were it read on, this would never end; what was sent is what the sockets between the two hold."""
    sent = []

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent.append(65536)

    assert asyncio.run(answered(serve)) == "did not answer as HTTP does: its first line has no end"
    assert sum(sent) < 20_000_000


def test_a_certificate_is_not_checked_but_encryption_is_spoken(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    words = f"req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=x -keyout {key} -out {certificate}"
    subprocess.run(["openssl", *words.split()], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    good = saying(b"HTTP/1.1 200 OK\r\n\r\n")
    assert asyncio.run(answered(good, encrypted=True, ssl=context)) == ""

    async def plain(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await writer.drain()

    assert "SSL" in asyncio.run(answered(plain, encrypted=True))


def findings(config: ProgramConfig, running: Running | Ready, child: Child, count: int, names: Any = None) -> list[Any]:
    """Let a prober ask until it has found so much."""
    found: list[Any] = []

    async def main() -> None:
        enough = asyncio.Event()

        def post(event: Any) -> None:
            found.append(event)
            if len(found) == count:
                enough.set()

        prober = Prober(config, names or Resolver())
        prober.follow(child, running, post)
        prober.follow(child, running, post)  # as after each event of the program: nothing begins anew
        async with asyncio.timeout(60):
            await enough.wait()
        prober.stop()

    asyncio.run(main())
    return found


def config(**keys: Any) -> ProgramConfig:
    return ProgramConfig(name="web", command=("true",), **keys)


STARTED, READY = Running(7, 0.0, 1e9), Ready(7, 0.0, 1.0)


def test_a_child_is_ready_once_it_has_run_for_so_long() -> None:
    found = findings(config(ready="1h"), Running(7, boottime() - 3600, 1e9), Child(), 1)
    assert isinstance(found[0], FoundReady)


@pytest.mark.parametrize("ready", ["notify", {"exec": "true"}])
def test_a_keeper_of_an_earlier_version_is_not_waited_for(ready: object) -> None:
    """It hears nothing and runs no probe; the program was started by an operator who had no way to know."""
    old = Child(replace(REPORT, probe=None))
    assert isinstance(findings(config(ready=ready), STARTED, old, 1)[0], FoundReady)
    assert old.asked == []


def test_what_the_child_says_before_it_is_ready_is_passed_on() -> None:
    async def speak(child: Child) -> None:
        await asyncio.sleep(0)
        child.say(says="warming up", extended=50.0)
        await asyncio.sleep(0.01)
        child.say(ready=9.0)

    class Speaker(Child):
        async def news(self) -> None:
            if not self.asked:
                self.asked.append(())
                self.speech = asyncio.create_task(speak(self))
            await super().news()

    silent, warming_up, ready = findings(config(ready="notify"), STARTED, Speaker(), 3)
    assert silent == FoundUnready("it has not said READY=1")
    assert warming_up == FoundUnready("it says: warming up", 50.0)
    assert isinstance(ready, FoundReady)


class Script:
    """Host names that cannot be looked up for one reason after the other; where there is none, this host is meant."""

    def __init__(self, *reasons: str) -> None:
        self.left = [*reasons]

    async def addresses(self, _host: str, _within: float) -> tuple[str, ...]:
        if reason := self.left.pop(0):
            raise OSError(reason)
        return ("127.0.0.1",)


@pytest.fixture
def door() -> Iterator[TcpCheck]:
    """Return a question that is answered well wherever its host is this one."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield TcpCheck("web", listening.getsockname()[1])


def test_a_program_that_refuses_is_unready_for_one_reason_until_it_is_another(door: TcpCheck) -> None:
    probe = Probe(door, period=0.1)
    *unready, ready = findings(config(ready=probe), STARTED, Child(), 3, Script("lost", "lost", "gone", "gone", ""))
    asked = f"tcp web port {door.port} cannot be asked"
    assert unready == [FoundUnready(f"{asked}: lost"), FoundUnready(f"{asked}: gone")]
    assert isinstance(ready, FoundReady)


def test_a_program_is_asked_anew_in_a_moment_whether_it_is_ready_however_long_its_period(door: TcpCheck) -> None:
    found = findings(config(ready=Probe(door, period=3600.0)), STARTED, Child(), 2, Script("lost", ""))
    assert isinstance(found[1], FoundReady)


def test_a_good_answer_ends_a_row_of_bad_ones(door: TcpCheck) -> None:
    script = Script("lost", "lost", "", "lost", "lost", "gone")
    [found] = findings(config(alive=Probe(door, period=0.1, threshold=3)), READY, Child(), 1, script)
    assert found.why == f"not alive: tcp web port {door.port} cannot be asked: gone, 3 times in a row"


def test_a_reload_has_a_child_asked_anew_only_where_the_question_has_changed() -> None:
    async def main() -> list[int]:
        child, asked = Child(), []
        prober = Prober(config(alive=Notify()), Resolver())
        for applied in (config(alive=Notify(), nice=1), config(alive=Notify()), config(alive=Notify(), ready="9s")):
            prober.apply(applied)
            prober.follow(child, READY, lambda _: None)
            await asyncio.sleep(0)
            asked.append(len(child.watched))
        prober.stop()
        return asked

    assert asyncio.run(main()) == [1, 1, 2]


def test_so_many_bad_answers_in_a_row_are_one_finding() -> None:
    probe = Probe(TcpCheck("127.0.0.1", 1), period=0.1, threshold=3)
    [found] = findings(config(alive=probe), READY, Child(), 1)
    assert isinstance(found, FoundUnhealthy)
    assert found.why == "not alive: tcp 127.0.0.1 port 1 cannot be asked: Connection refused, 3 times in a row"


def test_a_watchdog_is_the_keepers() -> None:
    child = Child(replace(REPORT, unhealthy="it has not said WATCHDOG=1 for 30 s"))
    [found] = findings(config(alive=Notify()), READY, child, 1)
    assert found.why == "not alive: it has not said WATCHDOG=1 for 30 s"
    assert child.watched == [30.0]


class Hung:
    """Name servers that never answer."""

    async def addresses(self, host: str, within: float) -> tuple[str, ...]:
        await asyncio.sleep(1000)
        return (host, str(within))


def test_a_name_server_that_hangs_is_a_bad_answer() -> None:
    probe = Probe(TcpCheck("web.example", 80), period=0.1, timeout=0.2, threshold=1)
    [found] = findings(config(alive=probe), READY, Child(), 1, Hung())
    assert found.why == "not alive: tcp web.example port 80 did not answer within 0.2 s"


def test_who_stood_still_itself_counts_nothing_against_the_program() -> None:
    async def main() -> tuple[str | None, str]:
        prober = Prober(config(alive={"tcp": "127.0.0.1:1"}), Hung())
        probe = Probe(TcpCheck("web.example", 80), timeout=0.2)
        asking = asyncio.create_task(prober._ask(probe, Child()))
        await asyncio.sleep(0.05)
        time.sleep(1.0)  # noqa: ASYNC251 - the whole worker stands still
        first, later = await asking, None
        async with asyncio.timeout(60):
            while later is None:  # on a busy machine it may stand still again
                later = await prober._ask(probe, Child())
        return first, later

    assert asyncio.run(main()) == (None, "tcp web.example port 80 did not answer within 0.2 s")


@pytest.mark.parametrize(
    ("facts", "wrong"),
    [
        ({"probe_status": 0}, ""),
        ({"probe_status": 1 << 8}, "exited with status 1"),
        ({"probe_status": 9}, "was killed by SIGKILL"),
        ({"probe_status": 9, "probe_failed": "it did not end within 3 s"}, "has no result: it did not end within 3 s"),
    ],
)
def test_a_command_is_judged_by_its_end(facts: dict[str, Any], wrong: str) -> None:
    async def main() -> str:
        child = Child()
        asking = asyncio.create_task(ask(ExecCheck(("check",)), Resolver(), child, 3.0))
        await asyncio.sleep(0)
        child.say(probe=1)
        await asyncio.sleep(0)
        assert not asking.done()
        child.say(**facts)
        try:
            await asking
        except Unwell as error:
            return str(error)
        return ""

    assert asyncio.run(main()) == wrong

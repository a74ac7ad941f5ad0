"""Claims about the real highlanderctl process against the real socket: what it prints, and what it exits with."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import socket
import sys
import termios
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from highlanderd.core.status import MigrationReport
from highlanderd.errors import ConfigurationError, HighlanderError
from tests.support.memory_node import MemoryNode, ctl, ended, leading, program, run, serving, until


def test_status_is_a_table_and_a_healthy_standby_s_exit_is_zero(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"), program("relay", leader="web-2", epoch=3))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, "status")
            assert asked.code == 0
            assert asked.err == ""
            lines = asked.out.splitlines()
            assert lines[0].split() == [
                "PROGRAM",
                "STATE",
                "SINCE",
                "LEADER",
                "EPOCH",
                "PID",
                "UPTIME",
                "RESTARTS",
                "REASON",
            ]
            assert re.fullmatch(r"beat +leading +\d+d( \d+[hms])? +web-1 +7 +4007 +1h 2m +0", lines[1])
            assert re.fullmatch(r"relay +waiting +\d+d( \d+[hms])? +web-2 +3 +- +- +0", lines[2])
            assert (await ctl(path, "status", "all")).code == 0
            assert (await ctl(path, "status", "r*")).code == 0

    run(main)


def test_status_of_a_named_program_says_by_its_exit_whether_it_is_led_here(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"), program("relay", leader="web-2"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            assert (await ctl(path, "status", "beat")).code == 0
            asked = await ctl(path, "status", "beat", "relay")
            assert asked.code == 3
            assert len(asked.out.splitlines()) == 3
            asked = await ctl(path, "status", "baet")
            assert asked.code == 4
            assert asked.err == ("highlanderctl: no program 'baet' is configured on this node; it has beat, relay\n")

    run(main)


def test_status_as_json_is_what_the_socket_gives(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"), program("relay"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            answer = json.loads((await ctl(path, "status", "--json")).out)
            assert set(answer) >= {"node", "instance", "version", "postgres", "programs"}
            assert [one["name"] for one in answer["programs"]] == ["beat", "relay"]
            answer = json.loads((await ctl(path, "status", "relay", "--json")).out)
            assert [one["name"] for one in answer["programs"]] == ["relay"]

    run(main)


def test_troubles_go_to_standard_error_and_leave_the_table_to_scripts(tmp_path: Path) -> None:
    node = MemoryNode(program("beat", connected=False))
    node.postgres = node.postgres.__class__(False, "db1:5432/ops", None, "connection refused", 10.0, None, 0)
    node.warnings = ("the ledger's lease of 20s overrules the configured 10s",)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, "status")
            assert len(asked.out.splitlines()) == 2
            assert asked.err.splitlines() == [
                "warning: PostgreSQL cannot be used: connection refused",
                "warning: the ledger's lease of 20s overrules the configured 10s",
            ]
            assert asked.code == 0

    run(main)


def test_show_tells_everything_and_lets_no_child_steer_the_terminal(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"))
    node.output = ("plain", "\x1b[2Jwiped", "tab\there")

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, "show", "beat")
            assert asked.code == 0
            assert "lock key     beat (lock id 8735414648771611572)" in asked.out
            assert "command      celery -A 'shop app' beat" in asked.out
            assert "  10  celery\n    11  worker\n      12  sh\n" in asked.out
            assert "\x1b" not in asked.out
            assert json.loads((await ctl(path, "show", "beat", "--json")).out)["lock_key"] == "beat"
            assert (await ctl(path, "show", "nobody/knows")).code == 4

    run(main)


def test_pid_prints_nothing_that_kill_could_take_for_a_process_group(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(MemoryNode(leading("beat"), program("relay")), tmp_path) as path:
            asked = await ctl(path, "pid", "beat")
            assert (asked.code, asked.out, asked.err) == (0, "4007\n", "")
            asked = await ctl(path, "pid", "relay")
            assert (asked.code, asked.out) == (3, "")
            assert asked.err == "highlanderctl: relay has no process on this node: it is waiting\n"
            for several in (("all",), ("b*", "relay"), ("beat", "relay")):
                asked = await ctl(path, "pid", *several)
                assert (asked.code, asked.out) == (3, "beat 4007\n")
                assert asked.err.startswith("highlanderctl: relay has no process on this node")

    run(main)


def test_orders_wait_for_many_programs_at_once_and_say_what_became_of_each(tmp_path: Path) -> None:
    names = [f"web-{number}" for number in range(450)]  # more than are under way at once
    node = MemoryNode(*(leading(name) for name in names), leading("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, "stop", "web-*", "--timeout", "60")
            assert (asked.code, asked.err) == (0, "")
            assert asked.out.splitlines() == [f"{name}: stopped" for name in names]
            assert node.of("beat").state == "leading"
            asked = await ctl(path, "start", "web-7", "web-8")
            assert asked.out == "web-7: leading, epoch 9, pid 4009\nweb-8: leading, epoch 9, pid 4009\n"

    run(main)


def test_release_hands_over(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, "release", "beat", "--to", "web-3", "--for", "2m")
            assert (asked.code, asked.out) == (0, "beat: waiting, led by web-3\n")
            asked = await ctl(path, "release", "beat")
            assert asked.code == 3
            assert "web-3 leads it" in asked.err

    run(main)
    assert node.orders == [("release", "beat", "web-3", 120.0)]


def test_restart_of_a_name_insists_and_restart_of_all_takes_what_is_here(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"), program("relay", leader="web-2"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, "restart", "all")
            assert (asked.code, asked.out) == (0, "beat: leading, epoch 8, pid 4008\n")
            asked = await ctl(path, "restart", "beat", "relay")
            assert asked.code == 3
            assert asked.out.startswith("beat: leading, epoch 9")
            assert asked.err.startswith("highlanderctl: restart relay: relay is not led by this node")
            assert (await ctl(path, "restart", "r*")).code == 3

    run(main)


def test_an_order_without_wait_says_that_it_was_only_given(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"), obedient=False)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, "stop", "beat", "--no-wait")
            assert (asked.code, asked.out) == (0, "beat: stop ordered\n")

    run(main)


def test_what_does_not_happen_in_time_exits_with_seven(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"), obedient=False)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, "stop", "beat", "--timeout", "100ms")
            assert asked.code == 7
            assert "still leading after 0.1 s" in asked.err

    run(main)


def test_an_unknown_name_orders_nothing_at_all(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            assert (await ctl(path, "stop", "beat", "baet")).code == 4

    run(main)
    assert node.orders == []


def test_reload_says_what_it_did_and_what_is_wrong(tmp_path: Path) -> None:
    node = MemoryNode(program("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            for command in (["reload"], ["update"]):
                asked = await ctl(path, *command)
                assert (asked.code, asked.out) == (0, "beat: changed (umask): drains and starts again\n")
            for command in (["reload", "--dry-run"], ["reread"]):
                asked = await ctl(path, *command)
                assert asked.out.startswith("A reload would do this:\nbeat: changed")
            node.trouble = ConfigurationError(("a.toml:3: program.beat: no command", "a.toml:9: unknown key"))
            asked = await ctl(path, "reload")
            assert (asked.code, asked.out) == (78, "")
            assert asked.err == "highlanderctl: a.toml:3: program.beat: no command\na.toml:9: unknown key\n"

    run(main)
    assert node.orders == [("reload", False)] * 2 + [("reload", True)] * 2


def test_the_ledger_the_version_and_the_end(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, "ledger", "show")
            assert asked.out == "schema   highlander\nlease    10.0\nsettled  -\n"
            assert json.loads((await ctl(path, "ledger", "show", "--json")).out)["settled"] is None
            asked = await ctl(path, "ledger", "set-lease", "20s")
            assert (asked.code, asked.out.splitlines()[0]) == (0, "the lease is 20s now")
            asked = await ctl(path, "version")
            assert asked.out == "highlanderctl 0.1.0\nhighlanderd 0.1.0 on web-1\n"
            asked = await ctl(path, "shutdown")
            assert (asked.code, asked.out) == (0, "web-1: releasing all programs, then ending\n")

    run(main)
    assert node.orders == [("lease", 20.0, False), ("shutdown",)]


# ------------------------------------------------------------------------------------------------- lengths of leases

ON = ("maintenance", "on", "--for", "1m")
OFF = ("maintenance", "off")
SET = ("ledger", "set-lease", "20s")


def test_maintenance_says_until_when_what_it_bears_and_what_it_costs(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, *ON, "--reason", "PostgreSQL 18.5")
            assert (asked.code, asked.err) == (0, "")
            assert asked.out.splitlines() == [
                "until 2026-01-02 03:05:05 UTC PostgreSQL may go away for up to 1m: that stops no child",
                "leases are 1m30s instead of 10s",
                "a node that is lost meanwhile is replaced within 1m37s",
            ]
            assert node.looks == 2, "it returned before all leaders used the longer lease, or looked on after that"
            asked = await ctl(path, *OFF)
            assert (asked.code, asked.err) == (0, "")
            assert asked.out == "maintenance is off\na node that is lost is replaced within 13s\n"

    run(main)
    assert [(order[1], order[2], order[4]) for order in node.orders] == [
        (60.0, "PostgreSQL 18.5", False),
        (None, "", False),
    ]


def test_a_changed_lease_says_what_it_costs_during_maintenance_too(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, *SET, "--force")
            assert (asked.code, asked.err) == (0, "")
            assert asked.out == "the lease is 20s now\na node that is lost is replaced within 26s\n"
            await ctl(path, *ON)
            asked = await ctl(path, "ledger", "set-lease", "2.5s", "--no-wait")
            assert asked.out.startswith("the lease is 2.5s now\nuntil 2026-01-02 03:05:05 UTC PostgreSQL may go away")

    run(main)
    assert node.orders[0] == ("lease", 20.0, True)


@pytest.mark.parametrize("order", [ON, OFF, SET])
def test_an_order_for_leases_as_json_is_what_the_socket_gives(tmp_path: Path, order: tuple[str, ...]) -> None:
    node = MemoryNode(leading("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            answer = json.loads((await ctl(path, *order, "--json")).out)
        assert set(answer) == {"lease", "in_force", "ceiling", "maintenance", "replaced_within", "pending"}
        assert (answer["maintenance"] is not None) == (order is ON)

    run(main)


def test_without_wait_the_leaders_that_do_not_follow_yet_are_named(tmp_path: Path) -> None:
    node = MemoryNode(*(leading(f"web-{number}") for number in range(8)), obedient=False)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, *OFF, "--no-wait")
            assert (asked.code, asked.err) == (0, "")
            named = ", ".join(f"web-{number} on web-1" for number in range(5))
            assert asked.out.splitlines()[-1] == f"not in force yet: {named} and 3 more"

    run(main)
    assert node.looks == 0


@pytest.mark.parametrize("order", [ON, OFF, SET])
def test_a_lease_that_is_not_in_force_in_time_exits_with_seven(tmp_path: Path, order: tuple[str, ...]) -> None:
    node = MemoryNode(leading("beat"), obedient=False)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, *order, "--timeout", "100ms")
            assert (asked.code, asked.out) == (7, "")
            assert "after 0.1 s these leaders do not use the lease of" in asked.err
            assert "yet: beat on web-1. The order stands" in asked.err

    run(main)


@pytest.mark.parametrize("order", [ON, OFF, SET, ("ledger", "migrate")])
def test_a_refusal_is_the_daemon_s_sentence_and_exits_with_one(tmp_path: Path, order: tuple[str, ...]) -> None:
    node = MemoryNode(leading("beat"))
    node.refusal = HighlanderError("the ledger has not settled on this server yet; try again in 10.5s")

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, *order)
            assert (asked.code, asked.out, asked.err) == (1, "", f"highlanderctl: {node.refusal}\n")

    run(main)
    assert node.orders == []


@pytest.mark.parametrize("order", [ON, SET])
def test_a_longer_lease_without_evidence_exits_with_one_and_can_be_forced(
    tmp_path: Path, order: tuple[str, ...]
) -> None:
    node = MemoryNode()
    node.lacking = "the longer lease is not on the disk of standby1; insist with --force"

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, *order)
            assert (asked.code, asked.out, asked.err) == (1, "", f"highlanderctl: {node.lacking}\n")
            assert node.orders == []
            assert (await ctl(path, *order, "--force")).code == 0

    run(main)
    assert len(node.orders) == 1


def test_a_migration_that_waits_exits_with_one_and_says_for_what(tmp_path: Path) -> None:
    node = MemoryNode()

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, "ledger", "migrate")
            assert (asked.code, asked.out, asked.err) == (0, "the ledger has schema 2 now\n", "")
            node.migration = MigrationReport(2, migrated=False, waits_for=())
            asked = await ctl(path, "ledger", "migrate")
            assert (asked.code, asked.out) == (0, "the ledger has schema 2 already\n")
            older = tuple(f"highlanderd/{node}/beat" for node in "abcdefg")
            node.migration = MigrationReport(1, migrated=False, waits_for=older)
            asked = await ctl(path, "ledger", "migrate")
            assert (asked.code, asked.out) == (1, "")
            assert "the ledger stays at schema 1; its migration waits for highlanderd/a/beat" in asked.err
            assert "and 2 more" in asked.err
            asked = await ctl(path, "ledger", "migrate", "--json")
            assert asked.code == 1
            assert json.loads(asked.out) == {"version": 1, "migrated": False, "waits_for": list(older)}

    run(main)


@pytest.mark.parametrize("reason", ["x" * 501, "one\ntwo", "\x1b[2J", "\udcff"])
def test_a_reason_that_no_terminal_should_print_is_wrong_usage(tmp_path: Path, reason: str) -> None:
    node = MemoryNode(leading("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, *ON, "--reason", reason)
            assert (asked.code, asked.out) == (2, "")
            assert (
                asked.err == "highlanderctl: 'reason' must be one line of printable text, of at most 500 characters\n"
            )

    run(main)
    assert node.orders == []


def test_status_ends_with_the_maintenance_and_leaves_the_table_to_scripts(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            await node.maintenance(60.0, reason="PostgreSQL 18.5", author="uid 0 (root) on node a")
            node.warnings = ("the ledger's lease of 20s overrules the configured 10s",)
            asked = await ctl(path, "status")
            assert asked.code == 0
            assert len(asked.out.splitlines()) == 2
            assert asked.err.splitlines() == [
                "maintenance until 2026-01-02 03:05:05 UTC by uid 0 (root) on node a: PostgreSQL 18.5",
                "  leases of 1m30s instead of 10s, a lost node is replaced within 1m37s",
                "warning: the ledger's lease of 20s overrules the configured 10s",
            ]
            node.lengths = replace(node.lengths, maintenance=None)
            assert "maintenance" not in (await ctl(path, "status")).err

    run(main)


def test_without_a_daemon_the_socket_and_the_cure_are_told(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"

    async def main() -> None:
        asked = await ctl(path, "status")
        assert asked.code == 5
        assert f"{path} does not exist" in asked.err
        assert "systemctl start highlanderd" in asked.err
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        asked = await ctl(path, "status")
        assert asked.code == 5
        assert f"{path} was left behind by one that has ended" in asked.err
        for answer in (b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{,}"):
            await something_else(path, answer)

    async def something_else(path: Path, answer: bytes) -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        path.unlink(missing_ok=True)  # noqa: ASYNC240 - a test may wait for its own file system
        server = await asyncio.start_unix_server(talk, path)
        asked = await ctl(path, "status")
        assert asked.code == 5
        assert "Traceback" not in asked.err
        server.close()

    run(main)


def test_a_reader_that_leaves_ends_it_quietly(tmp_path: Path) -> None:
    node = MemoryNode(*(program(f"program-{number}") for number in range(2000)))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ended(
                ["/bin/sh", "-c", f"{sys.executable} -m highlanderd.ctl --socket {path} status | head -n 1"]
            )
            assert asked.out.startswith("PROGRAM")
            assert asked.err == ""

    run(main)


def test_watch_prints_again_at_every_change_until_it_is_interrupted(tmp_path: Path) -> None:
    node = MemoryNode(program("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            watch = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "highlanderd.ctl", "--socket", str(path), "status", "--watch", "--json"),
                cwd=Path(__file__).parent.parent.parent,
                stdout=asyncio.subprocess.PIPE,
            )
            assert watch.stdout is not None
            try:
                assert json.loads(await watch.stdout.readline())["programs"][0]["state"] == "waiting"
                node.become("beat", leading("beat"))
                async with asyncio.timeout(60):
                    while json.loads(await watch.stdout.readline())["programs"][0]["state"] != "leading":
                        pass
                watch.send_signal(signal.SIGINT)
                await watch.stdout.read()
                assert await watch.wait() == 0
            finally:
                if watch.returncode is None:
                    watch.kill()
                    await watch.wait()

    run(main)


async def on_a_terminal(path: Path, lines: int, columns: int, **environment: str) -> str:
    """Return what ``highlanderctl status`` writes to a terminal of that size."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (lines, columns))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "highlanderd.ctl", "--socket", str(path), "status"),
        env={"TERM": "xterm", "PYTHONPATH": str(Path(__file__).parent.parent.parent), **environment},
        stdout=theirs,
    )
    assert await asyncio.wait_for(process.wait(), 60) == 0
    os.close(theirs)
    seen = await asyncio.to_thread(_read_all, ours)
    os.close(ours)
    return seen.decode()


def _read_all(terminal: int) -> bytes:
    """Read what was written to a terminal that nobody has open any more: it comes piece by piece, then EIO."""
    seen = b""
    with suppress(OSError):
        while piece := os.read(terminal, 65536):
            seen += piece
    return seen


def test_a_terminal_that_does_not_know_its_size_gets_everything(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(MemoryNode(program("beat", "backoff", reason="x" * 300)), tmp_path) as path:
            assert "x" * 300 in await on_a_terminal(path, 0, 0)

    run(main)


@pytest.mark.parametrize(
    ("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colour_is_for_terminals_and_no_line_wraps(tmp_path: Path, environment: dict[str, str], coloured: bool) -> None:
    node = MemoryNode(leading("beat"), program("relay", "backoff", reason="exited with code 1 " * 20))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            text = await on_a_terminal(path, 24, 80, **environment)
        assert ("\x1b[32mleading\x1b[0m" in text) == coloured
        assert ("\x1b" in text) == coloured
        lines = re.sub(r"\x1b\[\d*m", "", text).splitlines()
        assert max(len(line) for line in lines) <= 80
        assert lines[2].endswith("…")

    run(main)


def test_status_keeps_to_the_node_s_snapshot_under_change(tmp_path: Path) -> None:
    """Watching clients come and go without leaving anything behind in the daemon."""
    node = MemoryNode(program("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            for _ in range(3):
                _, writer = await asyncio.open_unix_connection(path)
                writer.write(b"GET /v1/status?wait=3600 HTTP/1.1\r\nHost: x\r\n\r\n")
                await until(lambda: bool(node._waiting))
                writer.close()
                await writer.wait_closed()
                node.become("beat", program("beat"))
            await until(lambda: not node._waiting)

    run(main)

"""Claims about the control socket as a file: whose it is, and whom it lets in."""

from __future__ import annotations

import asyncio
import fcntl
import grp
import os
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from highlanderd.errors import HighlanderError
from highlanderd.listeners.control import serve_control
from tests.support.control import get
from tests.support.long import first_of
from tests.support.memory_node import LOOPS, Ended, MemoryNode, ended, leading, program, run, serving

NOBODY = 65534


# ---------------------------------------------------------------------------------------------------------- the socket


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def main() -> None:
        async with serving(MemoryNode(program("beat")), tmp_path):
            assert (await get(path, "/v1/status"))[0] == 200

    run(main)
    assert not path.exists()


def test_a_live_owner_keeps_its_socket(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(MemoryNode(program("beat")), tmp_path) as path:
            with pytest.raises(HighlanderError, match="already answers"):
                await serve_control(MemoryNode(), path, 0o660, None)
            assert (await get(path, "/v1/status"))[1]["programs"][0]["name"] == "beat"

    run(main)


def test_a_live_owner_that_is_frozen_with_a_full_backlog_keeps_its_socket(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"

    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as frozen, socket.socket(socket.AF_UNIX) as first:
            frozen.bind(str(path))
            frozen.listen(0)
            first.connect(str(path))
            with pytest.raises(HighlanderError, match="already answers"):
                await serve_control(MemoryNode(), path, 0o660, None)

    run(main)


def test_of_many_that_start_at_once_exactly_one_gets_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def main() -> None:
        tries = await asyncio.gather(
            *(serve_control(MemoryNode(), path, 0o660, None) for _ in range(10)), return_exceptions=True
        )
        closers = [one for one in tries if not isinstance(one, BaseException)]
        assert len(closers) == 1
        assert all(isinstance(one, HighlanderError) for one in tries if isinstance(one, BaseException))
        assert (await get(path, "/v1/status"))[0] == 200
        await closers[0]()

    run(main)


def test_nobody_binds_while_another_process_does(tmp_path: Path) -> None:
    async def main() -> None:
        directory = os.open(tmp_path, os.O_RDONLY)
        fcntl.flock(directory, fcntl.LOCK_EX)
        started = asyncio.create_task(serve_control(MemoryNode(), tmp_path / "control.sock", 0o660, None))
        done, _ = await asyncio.wait([started], timeout=0.2)
        assert not done
        assert os.listdir(tmp_path) == []  # noqa: PTH208 - the pathlib call is refused in async functions
        os.close(directory)
        await (await started)()

    run(main)


def test_a_later_daemon_s_socket_is_not_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"

    async def main() -> None:
        async with serving(MemoryNode(), tmp_path):
            path.unlink()
            later = await serve_control(MemoryNode(program("beat")), path, 0o660, None)
        assert (await get(path, "/v1/status"))[0] == 200
        await later()

    run(main)


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "control.sock").write_text("precious")

    async def main() -> None:
        with pytest.raises(HighlanderError, match="is not a socket"):
            await serve_control(MemoryNode(), tmp_path / "control.sock", 0o660, None)

    run(main)
    assert (tmp_path / "control.sock").read_text() == "precious"


@pytest.mark.parametrize(
    ("path", "group", "cure"),
    [
        ("missing/control.sock", None, "create it"),
        ("x" * 120, None, "shorter"),
        ("control.sock", "no-such-group-here", "groupadd"),
    ],
)
def test_a_socket_that_cannot_be_made_is_refused_with_the_cure(
    tmp_path: Path, path: str, group: str | None, cure: str
) -> None:
    async def main() -> None:
        with pytest.raises(HighlanderError, match=cure):
            await serve_control(MemoryNode(), tmp_path / path, 0o660, group)

    run(main)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_socket_has_the_right_mode_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    async def main() -> None:
        async with serving(MemoryNode(), tmp_path, mode=0o620, group=str(os.getegid())) as path:
            assert stat.S_IMODE(path.stat().st_mode) == 0o620

    before = os.umask(umask)
    try:
        run(main)
    finally:
        os.umask(before)


# ------------------------------------------------------------------------------------------------------ who gets in

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def some_group() -> str:
    return next(group.gr_name for group in grp.getgrall() if group.gr_gid not in (0, NOBODY))


async def ctl_as(uid: int, groups: list[int], path: Path, *arguments: str) -> Ended:
    """Run highlanderctl as another user. Python is imported as root: its files may be hidden from that user."""
    program = (
        "import grp, os, pathlib, sys, urllib.parse; from highlanderd.ctl.command_line import parser, run; parser(); "
        f"os.setgroups({groups}); os.setgid({NOBODY}); os.setuid({uid}); sys.exit(run(sys.argv[1:]))"
    )
    return await ended([sys.executable, "-c", program, *arguments], HIGHLANDER_SOCKET=str(path))


@needs_root
@pytest.mark.parametrize("loop_factory", LOOPS)
def test_a_stranger_is_turned_away_although_the_mode_lets_it_connect(
    open_dir: Path, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    node = MemoryNode(leading("beat"))

    async def main() -> None:
        async with serving(node, open_dir, mode=0o666, group=some_group()) as path:
            asked = await ctl_as(NOBODY, [], path, "status")
            assert (asked.code, asked.out) == (6, "")
            assert f"user {NOBODY} may not command this daemon" in asked.err
            assert some_group() in asked.err
            assert (await ctl_as(NOBODY, [], path, "stop", "beat")).code == 6

    run(main, loop_factory)
    assert node.orders == []


@needs_root
@pytest.mark.parametrize("loop_factory", LOOPS)
def test_a_member_of_the_group_may_command(
    open_dir: Path, loop_factory: Callable[[], asyncio.AbstractEventLoop], caplog: pytest.LogCaptureFixture
) -> None:
    node = MemoryNode(leading("beat"))
    group = some_group()

    async def main() -> None:
        async with serving(node, open_dir, group=group) as path:
            asked = await ctl_as(NOBODY, [grp.getgrnam(group).gr_gid], path, "stop", "beat")
            assert (asked.code, asked.out) == (0, "beat: stopped on this node; no node leads it now\n")

    with caplog.at_level("INFO"):
        run(main, loop_factory)
    assert node.orders == [("stop", "beat")]
    assert f"ordered by uid {NOBODY}" in caplog.text


@needs_root
def test_who_cannot_even_connect_is_told_which_group_can(open_dir: Path) -> None:
    async def main() -> None:
        async with serving(MemoryNode(leading("beat")), open_dir, group=some_group()) as path:
            asked = await ctl_as(NOBODY, [], path, "status")
            assert asked.code == 6
            assert "permission denied" in asked.err
            assert repr(some_group()) in asked.err
            assert f"usermod -aG {some_group()} USER" in asked.err
            os.chmod(open_dir, 0o700)  # noqa: PTH101 - the pathlib call is refused in async functions
            asked = await ctl_as(NOBODY, [], path, "status")
            assert asked.code == 6
            assert f"{open_dir} lets no group in; use sudo" in asked.err

    run(main)


@needs_root
@pytest.mark.parametrize("mode", [0o660, 0o666])
@pytest.mark.parametrize("group", first_of([None, "root", "0"]))
def test_nobody_is_told_to_become_a_member_of_roots_group(open_dir: Path, mode: int, group: str | None) -> None:
    async def main() -> None:
        async with serving(MemoryNode(leading("beat")), open_dir, mode=mode, group=group) as path:
            asked = await ctl_as(NOBODY, [], path, "status")
            assert asked.code == 6
            assert "usermod" not in asked.err
            assert "join" not in asked.err
            assert "in [control] group" in asked.err

    run(main)


@needs_root
def test_the_cure_of_a_refusal_lets_its_reader_in(open_dir: Path) -> None:
    """Without a group, then with one, then as its member."""
    group = some_group()

    async def main() -> None:
        async with serving(MemoryNode(leading("beat")), open_dir) as path:
            assert "name it in [control] group" in (await ctl_as(NOBODY, [0], path, "status")).err
        async with serving(MemoryNode(leading("beat")), open_dir, group=group) as path:
            assert f"usermod -aG {group} USER" in (await ctl_as(NOBODY, [], path, "status")).err
            assert (await ctl_as(NOBODY, [grp.getgrnam(group).gr_gid], path, "status")).code == 0
        async with serving(MemoryNode(leading("beat")), open_dir, group=str(grp.getgrnam(group).gr_gid)) as path:
            assert (await ctl_as(NOBODY, [grp.getgrnam(group).gr_gid], path, "status")).code == 0, "a number will do"

    run(main)


def test_nothing_that_another_node_says_clears_a_screen_or_feigns_a_row(open_dir: Path) -> None:
    hostile = "b\x1b[2J\r\nFAKE  leading\u202e"
    node = MemoryNode(program("beat", leader=hostile, reason=f"led by {hostile}"))

    async def main() -> None:
        async with serving(node, open_dir) as path:
            for words in (["status"], ["show", "beat"], ["stop", "beat"], ["is-leading", "beat"], ["release", "beat"]):
                command = [sys.executable, "-m", "highlanderd.ctl", *words]
                asked = await ended(command, HIGHLANDER_SOCKET=str(path), PYTHONUTF8="1")
                said = asked.out + asked.err
                assert said.replace("\n", "").isprintable(), words
                assert not any(line.startswith("FAKE") for line in said.splitlines())

    run(main)


def test_without_a_group_the_socket_lets_none_in(open_dir: Path) -> None:
    async def main() -> None:
        async with serving(MemoryNode(), open_dir) as path:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600

    run(main)


NO_CHOWN = """
import asyncio, ctypes, os, struct, sys
from pathlib import Path
from highlanderd.listeners.sockets import unix_door

def forbid_chown():
    libc = ctypes.CDLL(None)
    load, jump, give = 0x20, 0x15, 0x06
    calls = {"x86_64": (92, 93, 94, 260), "aarch64": (54, 55)}[os.uname().machine]
    lines = [(load, 0, 0, 0)]
    lines += [(jump, len(calls) - at, 0, call) for at, call in enumerate(calls)]
    lines += [(give, 0, 0, 0x7FFF0000), (give, 0, 0, 0x00050001)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(lines), ctypes.addressof(code)))
    assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0

async def main():
    async with unix_door(Path(sys.argv[1]), 0o660, os.getegid()) as (door, remove):
        print(oct(os.stat(sys.argv[1]).st_mode & 0o777))

forbid_chown()
try:
    os.chown("/", -1, -1)
except PermissionError:
    asyncio.run(main())
"""


def test_a_chown_that_changes_nothing_is_not_made(open_dir: Path) -> None:
    """A filter of system calls, such as that of the unprivileged drop-in, refuses every one."""
    asked = asyncio.run(ended([sys.executable, "-c", NO_CHOWN, str(open_dir / "control.sock")]))
    assert (asked.out, asked.err) == ("0o660\n", "")

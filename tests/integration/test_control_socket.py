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
        async with serving(MemoryNode(), tmp_path, mode=0o620) as path:
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
        "import grp, os, sys; from highlanderd.ctl import main, parser; parser(); "
        f"os.setgroups({groups}); os.setgid({NOBODY}); os.setuid({uid}); sys.exit(main(sys.argv[1:]))"
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
            assert (asked.code, asked.out) == (0, "beat: stopped\n")

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
            os.chmod(open_dir, 0o700)  # noqa: PTH101 - the pathlib call is refused in async functions
            asked = await ctl_as(NOBODY, [], path, "status")
            assert asked.code == 6
            assert "'root'" in asked.err

    run(main)

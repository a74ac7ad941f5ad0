"""The lock of a control socket: one daemon holds it, and readers of its file change nothing about that."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

import pytest

from highlanderd.system import ownership


def test_the_lock_is_seen_as_long_as_a_process_holds_it_and_stands_in_nobodys_way(tmp_path: Path) -> None:
    socket = str(tmp_path / "control.sock")
    assert not ownership.taken(socket)
    held = ownership.take(socket)
    assert ownership.taken(socket)
    with pytest.raises(BlockingIOError):
        ownership.take(socket)
    os.close(held)
    assert not ownership.taken(socket)
    os.close(ownership.take(socket))


def test_nobody_who_may_only_read_the_lock_keeps_a_daemon_from_starting(tmp_path: Path) -> None:
    socket = str(tmp_path / "control.sock")
    os.close(ownership.take(socket))
    with Path(f"{socket}.lock").open("rb") as stranger:
        fcntl.lockf(stranger, fcntl.LOCK_SH | fcntl.LOCK_NB)
        held = ownership.take(socket)
        assert ownership.taken(socket)
        os.close(held)


def test_the_lock_is_made_through_no_link(tmp_path: Path) -> None:
    socket = str(tmp_path / "control.sock")
    (tmp_path / "canary").write_text("")
    (tmp_path / "canary").chmod(0o600)
    (tmp_path / "control.sock.lock").symlink_to("canary")
    os.close(ownership.take(socket))
    assert stat.S_IMODE((tmp_path / "canary").stat().st_mode) == 0o600
    assert not (tmp_path / "control.sock.lock").is_symlink()

"""The account of an embedded server: nobody else's, and a program that shares it is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from highlanderd.embedded.account import shared, unprivileged
from highlanderd.embedded.server import hold

STRANGER = 54321
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only an embedded server of root's has an account of its own")


@as_root
def test_a_program_that_runs_as_the_servers_account_is_warned_of(tmp_path: Path) -> None:
    users = {"beat": STRANGER, "relay": 1, "root": None}
    assert shared(tmp_path / "none", users) == ""
    assert shared(tmp_path / "none", {"beat": unprivileged().uid}).startswith("beat and the embedded PostgreSQL run as")
    os.chown(tmp_path, STRANGER, STRANGER)
    assert shared(tmp_path, users).startswith(
        f"beat and the embedded PostgreSQL run as {STRANGER}, so that such a program"
    )


@as_root
def test_the_accounts_files_lead_root_nowhere_and_hold_it_up_with_nothing(tmp_path: Path) -> None:
    (tmp_path / "canary").write_text("hunter2\n")
    (tmp_path / "canary").chmod(0o600)
    home = tmp_path / "pg"
    home.mkdir()
    os.mkfifo(home / "users.lock")
    os.close(hold(home))
    (home / "users.lock").unlink()
    (home / "users.lock").symlink_to(tmp_path / "canary")
    with pytest.raises(OSError, match="symbolic links"):
        hold(home)

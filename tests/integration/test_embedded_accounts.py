"""Whose account the embedded server runs under, and which directories and programs it refuses."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from pathlib import Path

import pytest

from highlanderd.embedded import server as embedded
from highlanderd.embedded.account import Account, account_of, refusal, unprivileged
from highlanderd.embedded.installation import PACKAGE, installed, pick
from highlanderd.errors import HighlanderError
from tests.support.commands import highlanderd
from tests.support.embedded import (
    REPOSITORY,
    Users,
    answering,
    let_the_steward_look,
    life,
    needs_root,
    postmaster,
    processes,
    stopped,
)
from tests.support.postgres import run


def test_a_long_path_gets_a_short_directory_for_its_socket(users: Users, open_dir: Path) -> None:
    directory = open_dir / ("x" * 100) / "pg"
    dsn = users(directory).dsn()
    assert answering(dsn)
    (place,) = run(dsn, "SHOW unix_socket_directories")[0]
    shutil.rmtree(place, ignore_errors=True)


def test_a_short_directory_that_somebody_else_prepared_is_refused(users: Users, open_dir: Path) -> None:
    directory = open_dir / ("y" * 100) / "pg"
    squatted = Path(embedded.dsn_of(directory).partition("host=")[2].partition("&")[0].replace("%2F", "/"))
    squatted.mkdir(mode=0o755)
    squatted.chmod(0o755)
    try:
        assert str(squatted) in str(users(directory).told()["refused"])
    finally:
        squatted.rmdir()


def test_a_database_of_another_major_version_is_refused_by_name(users: Users, open_dir: Path) -> None:
    directory = open_dir / "pg"
    user = users(directory)
    user.dsn()
    user.kill()
    stopped(directory)
    (directory / "data/PG_VERSION").write_text("9\n")
    assert "PostgreSQL 9" in str(users(directory).told()["refused"])


def test_a_version_that_is_none_is_refused_by_the_name_of_its_file(users: Users, open_dir: Path) -> None:
    (open_dir / "pg/data").mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(open_dir / "pg", 65534, 65534)
        os.chown(open_dir / "pg/data", 65534, 65534)
    (open_dir / "pg/data/PG_VERSION").write_text("\x1b[2Jnine\n")
    assert "PG_VERSION holds no version" in str(users(open_dir / "pg").told()["refused"])


def test_without_the_package_the_refusal_says_what_to_install() -> None:
    with pytest.raises(HighlanderError, match=r"pip install 'highlanderd\[embedded\]'"):
        pick([], None)


def test_an_old_database_keeps_its_version_and_a_new_one_gets_the_newest() -> None:
    found = installed()
    assert pick(found, None).major == max(installation.major for installation in found)
    for installation in found:
        assert pick(found, installation.major) == installation


@needs_root
def test_started_by_root_it_runs_as_nobody(users: Users, open_dir: Path) -> None:
    directory = open_dir / "pg"
    users(directory).dsn()
    statuses = []
    for pid in processes(directory):
        with contextlib.suppress(OSError):  # processes of a server come and go
            statuses.append(Path(f"/proc/{pid}/status").read_text())
    assert statuses
    for status in statuses:
        assert f"Uid:\t{unprivileged().uid}\t" in status
        assert "Groups:\t \n" in status
    assert open_dir.stat().st_uid == 0
    assert open_dir.stat().st_mode & 0o777 == 0o755


@needs_root
def test_started_by_root_it_runs_as_the_owner_of_its_directory(users: Users, open_dir: Path) -> None:
    directory = _given_to(open_dir / "pg", account_of(1))
    users(directory).dsn()
    assert Path(f"/proc/{postmaster(directory)}").stat().st_uid == 1
    assert {path.stat().st_uid for path in directory.iterdir()} == {1}


@needs_root
def test_root_and_the_owner_of_the_directory_share_one_server(users: Users, open_dir: Path, python_of: Account) -> None:
    directory = _given_to(open_dir / "pg", python_of)
    by_owner = users(directory, uid=python_of.uid)
    before = life(by_owner.dsn())
    assert life(users(directory).dsn()) == before
    by_owner.kill()
    let_the_steward_look(directory)
    assert life(embedded.dsn_of(directory)) == before


@pytest.fixture
def python_of() -> Account:
    """An unprivileged account that can execute our Python."""
    account = account_of(1)
    for needed in (Path(sys.executable).resolve(), REPOSITORY / "highlanderd/embedded.py"):
        with account.acting():
            if not os.access(needed, os.R_OK, effective_ids=True):
                pytest.skip(f"out of reach for {account.name}: {needed}")
    return account


@needs_root
def test_a_directory_of_root_is_refused_and_left_as_it_was(users: Users, open_dir: Path) -> None:
    directory = open_dir / "pg"
    directory.mkdir(mode=0o755)
    assert "belongs to root" in str(users(directory).told()["refused"])
    assert directory.stat().st_uid == 0
    assert "belongs to root" in refusal(directory)
    assert not list(directory.iterdir())


@needs_root
def test_a_directory_out_of_reach_is_refused_by_naming_the_barrier(users: Users, open_dir: Path) -> None:
    barrier = open_dir / "private"
    barrier.mkdir(mode=0o700)
    assert f"may not pass {barrier}:" in str(users(barrier / "pg").told()["refused"])
    assert f"may not pass {barrier}:" in refusal(barrier / "not/there")
    assert not list(barrier.iterdir())
    file = open_dir / "highlander.toml"
    file.write_text(f'[daemon]\nstate_dir = "state"\nrun_dir = "run"\n[postgres]\ndsn = "embedded:{barrier}/pg"\n')
    checked = highlanderd("-c", file, "--check")
    assert (checked.code, f"may not pass {barrier}:" in checked.err) == (78, True)
    assert barrier.stat().st_mode & 0o777 == 0o700


@needs_root
def test_programs_out_of_reach_are_copied_once(users: Users, open_dir: Path) -> None:
    site = open_dir / "home"
    site.mkdir(mode=0o700)
    real = installed()[0].home.parents[1]
    for name in (PACKAGE, f"{PACKAGE}.libs"):
        (site / name).symlink_to(real / name)
    directory = open_dir / "pg"
    user = users(directory, path=site)
    user.dsn()
    running = Path(f"/proc/{postmaster(directory)}/exe").readlink()
    assert running.is_relative_to(directory)
    copied = running.stat().st_ctime_ns
    user.kill()
    stopped(directory)
    users(directory, path=site).dsn()
    assert running.stat().st_ctime_ns == copied


def _given_to(directory: Path, account: Account) -> Path:
    directory.mkdir(mode=0o755)
    os.chown(directory, account.uid, account.gid)
    return directory

"""The embedded server belongs to its users together, and to none of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from highlanderd.embedded import server as embedded
from tests.support.embedded import (
    Users,
    another,
    answering,
    let_the_steward_look,
    life,
    postmaster,
    processes,
    steward,
    stopped,
)
from tests.support.postgres import run
from tests.support.wait import wait_for


def test_many_that_start_at_once_share_one_server(users: Users, open_dir: Path) -> None:
    directory = open_dir / "pg"
    racers = [users(directory) for _ in range(5)]
    assert len({life(racer.dsn()) for racer in racers}) == 1
    assert sorted(processes(directory).values()).count("highlander-pg") == 1


def test_the_server_is_small_safe_and_only_reached_through_a_socket_nobody_else_can_open(
    users: Users, open_dir: Path
) -> None:
    directory = open_dir / "pg"
    dsn = users(directory).dsn()
    assert dsn == embedded.dsn_of(directory)
    assert run(dsn, "SELECT current_user, current_database(), current_setting('listen_addresses')") == [
        ("highlander", "postgres", "")
    ]
    assert run(dsn, "SHOW fsync") == [("on",)]
    assert run(dsn, "SELECT current_setting('max_connections')::int >= 300") == [(True,)]
    for place in (directory, directory / "run", directory / "data"):
        assert place.stat().st_mode & 0o077 == 0


def test_the_server_outlives_whoever_started_it_and_stops_after_the_last_user_was_killed(
    users: Users, open_dir: Path
) -> None:
    directory = open_dir / "pg"
    first = users(directory)
    before = life(first.dsn())
    second = users(directory)
    second.dsn()
    first.kill()
    held = embedded.hold(directory)
    second.kill()
    pid = steward(directory)
    assert os.getsid(pid) != os.getsid(0)
    let_the_steward_look(directory)
    assert life(embedded.dsn_of(directory)) == before
    os.close(held)
    stopped(directory)


def test_newcomers_during_a_stop_get_a_fresh_server_that_stays(users: Users, open_dir: Path) -> None:
    directory = open_dir / "pg"
    user = users(directory)
    lives = {life(user.dsn())}
    while len(lives) < 3:
        user.kill()
        wait_for(
            lambda: not (directory / "run/.s.PGSQL.5432").exists() or _is_locked(directory), what="the stop begins"
        )
        user = users(directory)
        dsn = user.dsn()
        lives.add(life(dsn))
        let_the_steward_look(directory)
        assert answering(dsn) in lives


def _is_locked(directory: Path) -> bool:
    """Whether the steward has the users' lock, which it takes to stop the server."""
    try:
        os.close(embedded.hold(directory))
    except BlockingIOError:
        return True
    return False


def test_a_server_that_crashed_is_started_again(users: Users, open_dir: Path) -> None:
    directory = open_dir / "pg"
    dsn = users(directory).dsn()
    run(dsn, "CREATE TABLE kept ()")
    before = life(dsn)
    for _ in range(2):
        os.kill(postmaster(directory), signal.SIGKILL)
        before = another(dsn, before)
    assert run(dsn, "SELECT count(*) FROM kept") == [(0,)]


def test_the_server_of_a_killed_steward_goes_on_and_is_taken_over_by_the_next(users: Users, open_dir: Path) -> None:
    directory = open_dir / "pg"
    first = users(directory)
    dsn = first.dsn()
    before = life(dsn)
    os.kill(steward(directory), signal.SIGKILL)
    wait_for(lambda: "highlander-pg" not in processes(directory).values(), what="the steward is gone")
    assert life(dsn) == before
    assert life(users(directory).dsn()) == before
    wait_for(lambda: "highlander-pg" in processes(directory).values(), what="the next steward is there")
    os.kill(postmaster(directory), signal.SIGKILL)
    another(dsn, before)


def test_a_steward_that_is_told_to_end_stops_the_server_first(users: Users, open_dir: Path) -> None:
    directory = open_dir / "pg"
    user = users(directory)
    user.dsn()
    os.kill(steward(directory), signal.SIGTERM)
    stopped(directory)
    assert not (directory / "data/postmaster.pid").exists()


def test_a_new_server_is_fresh_until_somebody_has_made_its_ledger(users: Users, open_dir: Path) -> None:
    directory = open_dir / "pg"
    assert users(directory).told()["fresh"]
    assert users(directory).told()["fresh"]
    (directory / "fresh").unlink()
    assert not users(directory).told()["fresh"]


def test_where_no_other_package_is_looked_for_none_is_proposed() -> None:
    """The packages' launcher starts Python with -S, and what pip installs is out of its reach."""
    root = str(Path(__file__).parents[2])
    code = f"import sys; sys.path.append({root!r})\nfrom highlanderd.embedded.installation import pick\npick([], None)"
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert "set [postgres] dsn to a server of your own" in run.stderr
    assert "pip" not in run.stderr

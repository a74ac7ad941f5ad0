"""The embedded server belongs to its users together, and to none of them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from highlanderd.embedded import server as embedded
from highlanderd.embedded.account import Account, account_of, unprivileged
from highlanderd.embedded.installation import PACKAGE, installed, pick
from highlanderd.errors import HighlanderError
from tests.support.postgres import run
from tests.support.wait import wait_for

USER = """
import json, os, sys
from pathlib import Path
from highlanderd.embedded import server as embedded
from highlanderd.errors import HighlanderError
try:
    used = embedded.start(Path(sys.argv[1]), float(sys.argv[2]))
except HighlanderError as error:
    print(json.dumps({"refused": str(error)}), flush=True)
else:
    print(json.dumps({"dsn": used.dsn, "fresh": used.fresh.exists()}), flush=True)
    sys.stdin.read()
"""
REPOSITORY = Path(__file__).parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


class User:
    """A process that uses the server in a directory for as long as it lives."""

    def __init__(self, directory: Path, *, uid: int | None = None, path: Path | None = None) -> None:
        before = "" if uid is None else f"import os; os.setgroups(()); os.setgid({uid}); os.setuid({uid})\n"
        self.directory = directory
        self._process = subprocess.Popen(
            [sys.executable, "-c", before + USER, str(directory), "60"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env={"PYTHONPATH": os.pathsep.join(map(str, (*([path] if path else []), REPOSITORY)))},
        )

    def told(self) -> dict[str, object]:
        """Wait for what became of the start."""
        assert self._process.stdout is not None
        answer: dict[str, object] = json.loads(self._process.stdout.readline())
        return answer

    def dsn(self) -> str:
        """Wait for the server."""
        told = self.told()
        assert "dsn" in told, told
        return str(told["dsn"])

    def kill(self) -> None:
        """End as nobody wants to."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        """End in good order, if it has not ended yet."""
        self._process.communicate()


class Users:
    """The users of one test. In the end all of them are gone, and the servers with them."""

    def __init__(self) -> None:
        self._made: list[User] = []

    def __call__(self, directory: Path, *, uid: int | None = None, path: Path | None = None) -> User:
        user = User(directory, uid=uid, path=path)
        self._made.append(user)
        return user

    def close(self) -> None:
        """End them all, and see that nothing is left running."""
        for user in self._made:
            user.close()
        for directory in {user.directory for user in self._made}:
            try:
                stopped(directory)
            finally:
                for pid in processes(directory):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def users() -> Iterator[Users]:
    with contextlib.closing(Users()) as made:
        yield made


def processes(directory: Path) -> dict[int, str]:
    """Return the steward and the server of a directory: whatever works there or names it in its arguments."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and entry.joinpath("comm").read_text().strip() in ("postgres", "highlander-pg"):
                here = str(directory / "data").encode()
                if here in entry.joinpath("cmdline").read_bytes() or bytes(entry.joinpath("cwd").readlink()) == here:
                    found[int(entry.name)] = entry.joinpath("comm").read_text().strip()
    return found


def stopped(directory: Path) -> None:
    """Wait until nothing is left running."""
    wait_for(lambda: not processes(directory), what="steward and server are gone")


def another(dsn: str, before: object) -> object:
    """Wait for the next run of the server."""
    return wait_for(lambda: answering(dsn) not in (None, before) and answering(dsn), what="the next server")


def steward(directory: Path) -> int:
    (pid,) = (pid for pid, name in processes(directory).items() if name == "highlander-pg")
    return pid


def postmaster(directory: Path) -> int:
    return int((directory / "data/postmaster.pid").read_text().split()[0])


def life(dsn: str) -> object:
    """Tell one run of the server from the next."""
    return run(dsn, "SELECT pg_postmaster_start_time()")[0][0]


def answering(dsn: str) -> object:
    with contextlib.suppress(psycopg.OperationalError):
        return life(dsn)
    return None


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
    _let_the_steward_look(directory)
    assert life(embedded.dsn_of(directory)) == before
    os.close(held)
    stopped(directory)


def _let_the_steward_look(directory: Path) -> None:
    """Wait for two further looks at the users' lock: the steward sleeps in between, so its switches count them."""
    status = Path(f"/proc/{steward(directory)}/status")

    def looks() -> int:
        return int(status.read_text().split("voluntary_ctxt_switches:")[1].split()[0])

    before = looks()
    wait_for(lambda: looks() >= before + 2, what="the steward has looked twice")


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
        _let_the_steward_look(directory)
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
    _let_the_steward_look(directory)
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
    assert not list(directory.iterdir())


@needs_root
def test_a_directory_out_of_reach_is_refused_by_naming_the_barrier(users: Users, open_dir: Path) -> None:
    barrier = open_dir / "private"
    barrier.mkdir(mode=0o700)
    assert f"may not pass {barrier}:" in str(users(barrier / "pg").told()["refused"])
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

"""Who may write what the daemon believes, and read its secrets: judged as sshd and sudo judge their own files."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from highlanderd.config import check, load
from highlanderd.config.trust import directory_problem
from highlanderd.errors import ConfigurationError
from highlanderd.guardian import cgroup

STRANGER = 54321
"""A user that nobody else is."""
MAIN = '[daemon]\nstate_dir = "state"\nrun_dir = "run"\ninclude = "conf.d/*.toml"\n[postgres]\ndsn = "file:dsn"\n'
BEAT = '[program.beat]\ncommand = "true"\n'
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")


@pytest.fixture
def etc() -> Iterator[Path]:
    """Return a directory where everybody may pass, with a configuration that nobody else can change."""
    made = Path(tempfile.mkdtemp(dir="/tmp"))
    (made / "conf.d").mkdir(mode=0o755)
    for name, text in (("main.toml", MAIN), ("conf.d/beat.toml", BEAT), ("dsn", "host=127.0.0.1 dbname=ops\n")):
        (made / name).write_text(text)
        (made / name).chmod(0o644)
    (made / "dsn").chmod(0o600)
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def problems(etc: Path) -> list[str]:
    """Return what is wrong, to which --check and the start agree."""
    found = check(etc / "main.toml", os.environ).problems
    started: tuple[str, ...] = ()
    try:
        load(etc / "main.toml", os.environ)
    except ConfigurationError as error:
        started = error.problems
    own = ("daemon.state_dir: ", "daemon.run_dir: ", "control.socket: ")
    assert started == tuple(problem for problem in found if not any(key in problem for key in own))
    return [problem.removeprefix(f"{etc}/") for problem in found]


def warnings(etc: Path) -> list[str]:
    """Return what is warned of, by --check and at the start alike."""
    found = check(etc / "main.toml", os.environ).warnings
    assert load(etc / "main.toml", os.environ).warnings == found
    return [warning.removeprefix(f"{etc}/") for warning in found]


def test_nothing_is_said_of_files_that_nobody_else_can_change(etc: Path) -> None:
    assert problems(etc) == []
    assert warnings(etc) == []


@pytest.mark.parametrize("name", ["main.toml", "conf.d/beat.toml", "conf.d", "dsn"])
def test_what_everybody_may_write_is_refused(etc: Path, name: str) -> None:
    (etc / name).chmod(0o777)
    assert problems(etc)[0].startswith(f"{name}: everybody may write to it, and so decide what is run; take that right")


def test_a_directory_that_everybody_may_write_is_refused_before_it_holds_a_file(etc: Path) -> None:
    (etc / "conf.d/beat.toml").unlink()
    (etc / "conf.d").chmod(0o777)
    assert problems(etc)[0].startswith("conf.d: everybody may write to it")


def test_a_way_that_everybody_may_change_is_refused(etc: Path) -> None:
    etc.chmod(0o777)
    assert problems(etc)[0].startswith(f"{etc}: everybody may write to it")


@as_root
def test_who_may_write_what_a_program_of_another_user_runs_is_that_users_own_affair(etc: Path) -> None:
    shutil.copy("/bin/true", etc / "command")
    os.chown(etc / "command", STRANGER, STRANGER)
    beat = f'[program.beat]\ncommand = "{etc}/command"\n'
    (etc / "conf.d/beat.toml").write_text(f"{beat}user = {STRANGER}\ngroup = {STRANGER}\n")
    assert warnings(etc) == []
    (etc / "conf.d/beat.toml").write_text(beat)
    assert warnings(etc)[0].startswith(f"command: user {STRANGER} may write to it, and so decide what is run")


@as_root
@pytest.mark.parametrize("name", ["main.toml", "conf.d/beat.toml", "conf.d", "dsn"])
def test_what_another_user_or_group_may_write_is_warned_of(etc: Path, name: str) -> None:
    os.chown(etc / name, STRANGER, 0)
    assert problems(etc) == []
    assert (
        f"{name}: user {STRANGER} may write to it, and so decide what is run; make it your own (chown root"
        in (warnings(etc)[0])
    )
    os.chown(etc / name, 0, STRANGER)
    (etc / name).chmod((etc / name).stat().st_mode | stat.S_IWGRP)
    assert f"{name}: group {STRANGER} may write to it" in warnings(etc)[0]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("dsn", "host=127.0.0.1 dbname=ops\n", "dsn: everybody may read this secret; take that right away (chmod o-r"),
        (
            "main.toml",
            MAIN.replace("file:dsn", "host=db1 password=x"),
            "main.toml:6: postgres.dsn: holds a secret, and everybody may read this file; take that right away",
        ),
        (
            "conf.d/beat.toml",
            f'{BEAT}environment = {{ LANG = "C", API_TOKEN = "x" }}\n',
            "conf.d/beat.toml:3: program.beat.environment.API_TOKEN: holds a secret, and everybody may read this file",
        ),
    ],
)
def test_a_secret_that_everybody_may_read_is_warned_of(etc: Path, name: str, text: str, said: str) -> None:
    (etc / name).write_text(text)
    (etc / name).chmod(0o644)
    (warning,) = warnings(etc)
    assert warning.startswith(said)
    (etc / name).chmod(0o640)
    assert warnings(etc) == []
    (etc / name).chmod(0o644)
    etc.chmod(0o750)
    assert warnings(etc) == [], "nobody else can come to it"


def test_a_secret_that_stands_elsewhere_is_no_secret_of_the_file(etc: Path) -> None:
    (etc / "token").write_text("x")
    (etc / "token").chmod(0o600)
    (etc / "conf.d/beat.toml").write_text(
        f'{BEAT}environment = {{ API_TOKEN = "file:../token", B_TOKEN = "${{HOME}}" }}\n'
    )
    assert warnings(etc) == []


@as_root
def test_a_log_that_the_programs_user_may_not_write_is_warned_of(etc: Path) -> None:
    who = f'user = "{STRANGER}"\ngroup = "{STRANGER}"\n'
    (etc / "conf.d/beat.toml").write_text(f'{BEAT}{who}stdout = "../log/beat"\nstderr = "../log/beat"\n')
    assert warnings(etc) == [], "that its directory does not exist is a problem already"
    (etc / "log").mkdir(mode=0o755)
    assert problems(etc) == []
    (warning,) = warnings(etc)
    assert warning.startswith(f"conf.d/beat.toml:5: program.beat.stdout: {etc}/log/beat cannot be written by the progr")
    os.chown(etc / "log", STRANGER, STRANGER)
    assert warnings(etc) == []
    os.chown(etc / "log", 0, 0)
    (etc / "log/beat").touch()
    os.chown(etc / "log/beat", STRANGER, STRANGER)
    assert warnings(etc) == [], "it is there already"


@as_root
def test_a_log_that_root_alone_can_put_somewhere_needs_no_rights_of_the_programs_user(etc: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/var/log") as log:
        who = f'user = "{STRANGER}"\ngroup = "{STRANGER}"\n'
        (etc / "conf.d/beat.toml").write_text(f'{BEAT}{who}stdout = "{log}/beat"\n')
        assert warnings(etc) == []


def test_a_log_that_is_no_file_to_write_to_is_warned_of(etc: Path) -> None:
    (etc / "conf.d/beat.toml").write_text(f'{BEAT}stdout = "../log"\n')
    (etc / "log").touch()
    assert warnings(etc) == []
    (etc / "log").rename(etc / "file")
    (etc / "log").symlink_to(etc / "file")
    assert "log is a link, and a log file's own name is never followed as one" in warnings(etc)[0]
    (etc / "log").unlink()
    os.mkfifo(etc / "log")
    assert "log is no regular file" in warnings(etc)[0]


@pytest.mark.parametrize("key", ["command", "environment_file"])
def test_what_a_program_of_the_daemons_own_user_runs_is_judged_too(etc: Path, key: str) -> None:
    (etc / "there").write_text("#!/bin/true\n")
    (etc / "there").chmod(0o777)
    keys = {"command": '"true"', key: f'"{etc}/there"'}
    (etc / "conf.d/beat.toml").write_text("[program.beat]\n" + "".join(f"{k} = {v}\n" for k, v in keys.items()))
    assert any(warning.startswith("there: everybody may write to it, and so decide what") for warning in warnings(etc))


# ------------------------------------------------------------------------------------------ the daemon's own files


def test_a_state_directory_that_others_may_write_is_refused(etc: Path) -> None:
    (etc / "state").mkdir()
    (etc / "state").chmod(0o777)
    assert problems(etc) == [
        f"main.toml:2: daemon.state_dir: everybody may write to {etc}/state; take that right away "
        f"(chmod o-w {etc}/state), or name another one"
    ]
    (etc / "state").chmod(0o1777)
    assert "name a directory of the daemon's own in it" in problems(etc)[0]


@as_root
def test_a_run_directory_of_another_user_is_refused(etc: Path) -> None:
    (etc / "run").mkdir()
    os.chown(etc / "run", STRANGER, STRANGER)
    assert problems(etc)[0].startswith(f"main.toml:3: daemon.run_dir: user {STRANGER} may write to {etc}/run")


def test_a_run_directory_that_is_shared_is_refused_though_its_socket_alone_might_stand_there(etc: Path) -> None:
    (etc / "run").mkdir()
    (etc / "run").chmod(0o1777)
    said = f"daemon.run_dir: everybody may write to {etc}/run; name a directory of the daemon's own in it"
    assert problems(etc) == [f"main.toml:3: {said}"]


@as_root
def test_a_socket_in_a_directory_of_another_user_is_refused_and_one_in_a_shared_directory_is_not(etc: Path) -> None:
    text = MAIN.replace("[postgres]", '[control]\nsocket = "there/control.sock"\n[postgres]')
    (etc / "main.toml").write_text(text)
    (etc / "there").mkdir()
    os.chown(etc / "there", STRANGER, STRANGER)
    assert problems(etc)[0].startswith(f"main.toml:6: control.socket: user {STRANGER} may write to {etc}/there")
    os.chown(etc / "there", 0, 0)
    (etc / "there").chmod(0o1777)
    assert problems(etc) == []


def test_a_directory_of_our_own_is_no_problem_wherever_it_stands(etc: Path) -> None:
    (etc / "state").mkdir(mode=0o755)
    assert directory_problem(etc / "state") == ""
    assert directory_problem(etc / "none/below") == ""


def test_the_daemons_place_is_written_through_no_link(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("as it was")
    for name in ("instance", "instance.new"):
        (tmp_path / name).symlink_to(canary)
    assert cgroup.succeed(str(tmp_path / "instance"), str(uuid.uuid4()), 1) == []
    assert canary.read_text() == "as it was"
    assert not (tmp_path / "instance").is_symlink()
    assert stat.S_IMODE((tmp_path / "instance").stat().st_mode) == 0o600


@pytest.mark.parametrize("instance", ["", "x", "6f1d8c2e-58a4-4d0e-9f0a-3b7c1d2e4f50"])
def test_a_place_that_is_no_cgroup_is_left_alone(tmp_path: Path, instance: str) -> None:
    """What is written there is killed and removed as root."""
    mine = tmp_path / f"highlander.{instance}.1"
    mine.mkdir()
    (mine / "cgroup.kill").write_text("")
    (mine / "cgroup.events").write_text("populated 1\n")
    (tmp_path / "instance").write_text(f"{instance}\n{tmp_path}\n")
    assert cgroup.succeed(str(tmp_path / "instance"), str(uuid.uuid4()), 0.1) == []
    assert (mine / "cgroup.kill").read_text() == ""


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file that names an earlier daemon, which has left a cgroup with a process in it."""
    monkeypatch.setattr("highlanderd.system.cgroup_places.mounts", lambda *_: [("/", str(tmp_path / "cgroup"))])
    instance = str(uuid.uuid4())
    mine = tmp_path / "cgroup" / f"highlander.{instance}.1"
    mine.mkdir(parents=True)
    (mine / "cgroup.kill").write_text("")
    (mine / "cgroup.events").write_text("populated 1\n")
    (tmp_path / "instance").write_text(f"{instance}\n{tmp_path / 'cgroup'}\n")
    return tmp_path / "instance"


def killed(left: Path) -> bool:
    """Return whether a daemon that starts kills what the one has left that is named there."""
    cgroup.succeed(str(left), str(uuid.uuid4()), 0.1)
    [mine] = left.parent.glob("cgroup/highlander.*.1")
    return (mine / "cgroup.kill").read_text() == "1"


def test_what_an_earlier_daemon_has_left_is_killed(left: Path) -> None:
    assert killed(left)


@as_root
def test_what_another_user_says_that_an_earlier_daemon_has_left_is_not_killed(left: Path) -> None:
    os.chown(left, STRANGER, STRANGER)
    assert not killed(left)


def test_nothing_is_killed_by_a_way_that_leads_out_of_the_cgroups_and_in_again(left: Path) -> None:
    left.write_text(left.read_text().replace("/cgroup\n", "/cgroup/../cgroup\n"))
    assert not killed(left)


def test_a_state_directory_that_is_none_is_refused(etc: Path) -> None:
    (etc / "file").touch()
    assert directory_problem(etc / "file") == f"{etc}/file is no directory; name one"
    for place in ("/proc", "/sys"):
        made = f"the kernel lets nothing be made in {place}; name a directory elsewhere"
        assert directory_problem(Path(place) / "nope") == directory_problem(Path(place)) == made
    assert directory_problem(etc / "file/state") == f"{etc}/file/state is in no directory; name one that can be made"

"""Environment files: read as the program's user, whatever that user has put there, and as people write them."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from highlanderd.config import Identity, ProgramConfig, child_environment
from highlanderd.config.environment import parsed_environment, read_environment
from highlanderd.config.paths import PathReader
from highlanderd.config.values import EnvironmentFile
from highlanderd.errors import HighlanderError
from highlanderd.guardian.start import failure
from highlanderd.system import path_reader, proctree
from tests.support.configuration import POSTGRES, loaded

STRANGER = 54321
"""A user that nobody else is."""
SELF = Identity(None, None, None)
GAMES = Identity(STRANGER, STRANGER, (STRANGER,))
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may read files as another user")


def read(path: Path, who: Identity = SELF, *, optional: bool = False) -> dict[str, str]:
    """Read an environment file as ``who``."""
    with PathReader() as paths:
        return read_environment(EnvironmentFile(path, optional), who, paths)


def refusal(path: Path, who: Identity = SELF) -> str:
    """Return why an environment file is not read."""
    with pytest.raises(HighlanderError) as refused:
        read(path, who)
    return str(refused.value).removeprefix(f"{path}: ")


@pytest.fixture
def home() -> Iterator[Path]:
    """Return a directory of the stranger's, where everybody may pass."""
    made = Path(tempfile.mkdtemp(dir="/tmp"))
    made.chmod(0o755)
    os.chown(made, STRANGER, STRANGER)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def shelter() -> Iterator[Path]:
    """Return a directory of root's that only root can replace."""
    made = Path(tempfile.mkdtemp(dir="/var/lib", prefix="highlander-test-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def secret(path: Path) -> Path:
    """Write a file that root alone may read."""
    path.write_text("TOKEN=hunter2\n")
    path.chmod(0o600)
    return path


# ----------------------------------------------------------------------------------------------------- whose file it is


@as_root
def test_a_link_to_a_secret_gives_it_to_no_program_whose_user_may_not_read_it(home: Path, shelter: Path) -> None:
    (home / "env").symlink_to(secret(shelter / "token"))
    said = refusal(home / "env", GAMES)
    assert said.startswith("the program's user may not read the environment file, and /tmp is not root's alone")


@as_root
def test_a_secret_in_a_directory_that_root_alone_can_change_is_read_for_the_program(shelter: Path) -> None:
    assert read(secret(shelter / "token"), GAMES) == {"TOKEN": "hunter2"}
    (shelter / "link").symlink_to("token")
    assert read(shelter / "link", GAMES) == {"TOKEN": "hunter2"}


@as_root
@pytest.mark.parametrize(("mode", "gid"), [(0o777, 0), (0o775, STRANGER)])
def test_a_directory_that_the_program_can_change_shelters_nothing(shelter: Path, mode: int, gid: int) -> None:
    os.chown(shelter, 0, gid)
    shelter.chmod(mode)
    said = refusal(secret(shelter / "token"), GAMES)
    assert f", and {shelter} is not root's alone, so that others could replace the file" in said


@as_root
def test_what_its_own_user_may_read_is_read_wherever_it_is(home: Path) -> None:
    (home / "env").write_text("A=1\n")
    os.chown(home / "env", STRANGER, STRANGER)
    (home / "env").chmod(0o400)
    assert read(home / "env", GAMES) == {"A": "1"}


@as_root
def test_a_child_gets_the_files_of_its_user_and_no_others(home: Path, shelter: Path) -> None:
    (home / "env").symlink_to(secret(shelter / "token"))
    keys = {"user": STRANGER, "group": STRANGER, "environment_file": str(home / "env")}
    beat = ProgramConfig.model_validate({"name": "beat", "command": ["x"], **keys})
    with pytest.raises(HighlanderError, match="may not read"):
        child_environment(beat, {})


# --------------------------------------------------------------------------------------------------- what can be there


def test_a_fifo_and_a_device_are_refused_and_hold_nothing_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path):
        assert refusal(path) == "this is no regular file, and an environment file must be one"


def test_a_file_above_a_mebibyte_is_refused(tmp_path: Path) -> None:
    (tmp_path / "env").write_bytes(b"#" * (1 << 20))
    assert read(tmp_path / "env") == {}
    (tmp_path / "env").write_bytes(b"#" * ((1 << 20) + 1))
    assert refusal(tmp_path / "env").startswith("the environment file is larger than 1 MiB")


def test_a_path_that_gives_no_answer_is_given_up_and_named(tmp_path: Path) -> None:
    """As when a file system hangs: here the process that looks at it is stopped."""
    with PathReader() as paths:
        assert stat.S_ISDIR(paths.mode(tmp_path, SELF))
        (reader,) = proctree.below(os.getpid())
        os.kill(reader, signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            paths.mode(tmp_path / "hung", SELF)
        assert paths.hung == tmp_path / "hung"
        assert stat.S_ISDIR(paths.mode(tmp_path, SELF)), "another process answers"


@pytest.mark.parametrize("python", ["/nowhere/python3", "/etc/passwd"])
def test_a_python_that_cannot_be_started_is_named_and_nothing_counts_as_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: str
) -> None:
    (tmp_path / "env").write_text("A=1\n")
    monkeypatch.setattr(sys, "executable", python)
    with pytest.raises(HighlanderError, match=f"{python} cannot be started to look at it"):
        read(tmp_path / "env", optional=True)
    [said] = loaded(f"{POSTGRES}[program.x]\ncommand = 'sh'\n", {"PATH": "/usr/bin"}).findings
    assert f"could not be looked for in /usr/bin ({python} cannot be started to look at it: " in said


@pytest.mark.parametrize(
    "hostile",
    [
        "write(b'no answer at all')",
        "write(struct.pack('=iII', 0, 0, 0xFFFFFFFF)); [write(bytes(1 << 20)) for _ in range(1000)]",
        "write(struct.pack('=iII', 0, 0, 10)); write(b'half')",
        "[(write(b'x'), time.sleep(0.1)) for _ in range(1000)]",
    ],
    ids=["garbage", "endless", "half", "drop by drop"],
)
def test_a_reader_that_a_hostile_user_has_taken_over_gives_no_answer(tmp_path: Path, hostile: str) -> None:
    program = tmp_path / "reader.py"
    program.write_text(
        "import os, struct, sys, time\ndef write(data): os.write(1, data)\nsys.stdin.readline()\n" + hostile
    )
    with PathReader(str(program)) as paths, pytest.raises(TimeoutError):
        paths.read(tmp_path / hostile[:20].replace("/", ""), SELF)


@given(st.binary(max_size=64))
@example(b"!program 99999999999999999999")
@settings(max_examples=300)
def test_whatever_a_child_answers_before_it_is_executed_is_a_sentence(answer: bytes) -> None:
    said = failure(answer, {"argv": [b"/bin/true"], "cwd": None, "uid": None, "gid": None})
    assert said is None if answer == b"!" else said and said.isprintable()


@pytest.mark.parametrize("answered", [True, False])
def test_a_reader_whose_asker_was_killed_ends_without_a_word(tmp_path: Path, answered: bool) -> None:
    (tmp_path / "env").write_text("A=1\n")
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-IS", path_reader.__file__]
    with ours, subprocess.Popen(command, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=PIPE) as reader:
        theirs.close()
        ours.sendall(path_reader.request("read", os.fsencode(tmp_path / "env"), None, None, None))
        if answered:
            select.select([ours], [], [])
        ours.close()
        assert (reader.communicate()[1], reader.returncode) == (b"", 0)


def test_only_a_file_that_is_optional_may_be_missing(tmp_path: Path) -> None:
    assert read(tmp_path / "none", optional=True) == {}
    assert refusal(tmp_path / "none").startswith('there is no such environment file; create it, or write "-"')


def test_a_dash_makes_a_file_optional_and_a_path_that_begins_with_one_has_a_directory() -> None:
    text = POSTGRES + '[program.beat]\ncommand = "true"\nenvironment_file = ["-env", "./-env", "/-env", "-/env"]\n'
    assert loaded(text, {"PATH": "/bin"}).configuration.programs["beat"].environment_file == (
        EnvironmentFile(Path("/etc/env"), optional=True),
        EnvironmentFile(Path("/etc/-env")),
        EnvironmentFile(Path("/-env")),
        EnvironmentFile(Path("/env"), optional=True),
    )


# --------------------------------------------------------------------------------------------------------- what it says


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"\xef\xbb\xbfA=1\n", {"A": "1"}),
        ("A=a\u2028EVIL=1\n".encode(), {"A": "a\u2028EVIL=1"}),
        (
            b"A=a\x0bEVIL=1\x0cEVIL=2\x85EVIL=3\rEVIL=4\n",
            {"A": os.fsdecode(b"a\x0bEVIL=1\x0cEVIL=2\x85EVIL=3\rEVIL=4")},
        ),
        (b"A=1\r\nB='2'\r\n", {"A": "1", "B": "2"}),
        (b"A=caf\xe9\n", {"A": os.fsdecode(b"caf\xe9")}),
        (b'A="x\x85y"\n', {"A": os.fsdecode(b"x\x85y")}),
    ],
)
def test_lines_end_at_line_ends_only_and_bytes_stay_as_they_are(content: bytes, found: dict[str, str]) -> None:
    assert parsed_environment(Path("env"), content) == found


def test_names_that_no_shell_passes_on_are_named(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("my.name=1\n1st=1\nGOOD_1=1\n")
    program = f'[program.beat]\ncommand = "true"\nenvironment_file = "{tmp_path}/env"\nenvironment = {{ a-b = "" }}\n'
    there, written = loaded(POSTGRES + program, {"PATH": "/bin"}).warnings[-2:]
    assert there.startswith(
        f'/etc/highlander.toml:5: program.beat.environment_file: {tmp_path}/env sets "1st", "my.name": a shell drops'
    )
    assert written.startswith('/etc/highlander.toml:6: program.beat.environment: sets "a-b": a shell drops')

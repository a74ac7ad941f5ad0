"""What a child finds in its environment, who it becomes, and what the machine lacks for it."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Mapping
from pathlib import Path

import pytest

from highlanderd.config import Identity, ProgramConfig, child_environment, identity
from highlanderd.config.environment import parsed_environment
from highlanderd.errors import HighlanderError
from tests.support.configuration import POSTGRES, loaded

DAEMON = {
    "PATH": "/bin",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "HOME": "/root",
    "EDITOR": "vi",
    "PGPASSWORD": "hunter2",
    "NOTIFY_SOCKET": "/run/n",
    "WATCHDOG_USEC": "1",
    "LISTEN_FDS": "1",
    "JOURNAL_STREAM": "1:2",
    "CREDENTIALS_DIRECTORY": "/run/credentials",
    "HIGHLANDER_EPOCH": "7",
}
ME = pwd.getpwuid(os.geteuid())


def program(**keys: object) -> ProgramConfig:
    """Return a program with these keys."""
    return ProgramConfig.model_validate({"name": "beat", "command": ["x"], **keys})


@pytest.mark.parametrize(
    ("inherit", "names"),
    [
        (False, {"PATH", "LANG", "TZ"}),
        (["EDITOR", "NO_SUCH"], {"PATH", "LANG", "TZ", "EDITOR"}),
        (["PGPASSWORD"], {"PATH", "LANG", "TZ", "PGPASSWORD"}),
        (True, {"PATH", "LANG", "TZ", "HOME", "EDITOR"}),
    ],
)
def test_a_child_inherits_what_it_was_given_and_nothing_of_the_daemons_own(inherit: object, names: set[str]) -> None:
    assert set(child_environment(program(inherit_environment=inherit), DAEMON)) == names


def test_a_variable_that_the_user_sets_reaches_the_child_whatever_its_name() -> None:
    assert child_environment(program(environment={"PGHOST": "db"}), DAEMON)["PGHOST"] == "db"


def test_a_child_always_has_a_path() -> None:
    assert child_environment(program(), {})["PATH"].endswith("/usr/bin:/sbin:/bin")


def test_a_user_brings_its_home() -> None:
    found = child_environment(program(user=ME.pw_name, inherit_environment=True), DAEMON)
    assert (found["HOME"], found["USER"], found["LOGNAME"]) == (ME.pw_dir, ME.pw_name, ME.pw_name)
    assert found["SHELL"]


def test_later_sources_win(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("A=one\nB=one\nC=one\nHOME=one\n")
    (tmp_path / "two").write_text("B=two\nC=two\n")
    files = [str(tmp_path / "one"), str(tmp_path / "two")]
    beat = program(user=ME.pw_name, environment_file=files, environment={"C": "three"})
    found = child_environment(beat, DAEMON)
    assert {name: found[name] for name in "ABC"} == {"A": "one", "B": "two", "C": "three"}
    assert found["HOME"] == "one"


def test_an_environment_file_is_read_again_at_each_start(tmp_path: Path) -> None:
    file = tmp_path / "env"
    beat = program(environment_file=str(file))
    file.write_text("A=1")
    assert child_environment(beat, {})["A"] == "1"
    file.write_text("A=2")
    assert child_environment(beat, {})["A"] == "2"


def test_an_environment_file_is_read_as_people_write_it() -> None:
    content = """# comment

A=1 2 # kept
export B=x
C='single # "quoted"'
D="double \\"quoted\\" \\$5 \\n"
E=
  F=$A
"""
    assert parsed_environment(Path("env"), content.encode()) == {
        "A": "1 2 # kept",
        "B": "x",
        "C": 'single # "quoted"',
        "D": 'double "quoted" $5 \\n',
        "E": "",
        "F": "$A",
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"A=1\nhunter2\n", ":2: this line sets no variable; write NAME=value"),
        (b"A='hunter2\n", ':1: the quotes of "A" do not close at the line\'s end; close them'),
        (b"A='x' hunter2\n", ':1: the quotes of "A" do not close at the line\'s end; close them'),
        (b"A=1\0\n", ":1: this line sets no variable"),
    ],
)
def test_a_bad_environment_file_is_refused_without_its_values(content: bytes, said: str) -> None:
    with pytest.raises(HighlanderError) as refused:
        parsed_environment(Path("env"), content)
    assert str(refused.value).startswith(f"env{said}")
    assert "hunter2" not in str(refused.value)


def test_a_missing_environment_file_keeps_the_child_from_starting(tmp_path: Path) -> None:
    with pytest.raises(HighlanderError, match="no such environment file"):
        child_environment(program(environment_file=str(tmp_path / "none")), DAEMON)


def test_without_accounts_nothing_changes() -> None:
    assert identity(program()) == Identity(None, None, None)


def test_a_user_brings_its_groups() -> None:
    other = next(account for account in pwd.getpwall() if account.pw_uid != os.geteuid())
    wanted = identity(program(user=other.pw_name))
    assert (wanted.uid, wanted.gid) == (other.pw_uid, other.pw_gid)
    assert set(wanted.groups or ()) == set(os.getgrouplist(other.pw_name, other.pw_gid))
    assert identity(program(user=other.pw_uid)) == wanted


def test_group_and_supplementary_groups_come_on_top() -> None:
    first, second = (group for group in grp.getgrall() if group.gr_name in ("daemon", "sys"))
    wanted = identity(program(user="nobody", group=first.gr_name, supplementary_groups=[second.gr_name, 12345]))
    assert wanted.gid == first.gr_gid
    assert {first.gr_gid, second.gr_gid, 12345} <= set(wanted.groups or ())


def test_a_number_without_an_entry_needs_a_group() -> None:
    with pytest.raises(HighlanderError, match="set group as well"):
        identity(program(user=2**31 - 7))
    assert identity(program(user=2**31 - 7, group=5)) == Identity(2**31 - 7, 5, (5,))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"user": "no-such-user"}, 'there is no user "no-such-user" on this machine; create it'),
        ({"group": "no-such-group"}, 'there is no group "no-such-group" on this machine; create it'),
        ({"supplementary_groups": ["no-such-group"]}, 'there is no group "no-such-group" on this machine'),
    ],
)
def test_an_unknown_account_is_a_sentence(keys: Mapping[str, object], said: str) -> None:
    with pytest.raises(HighlanderError, match=f"program beat cannot be started: {said}"):
        identity(program(**keys))


def test_a_command_that_could_not_be_looked_for_is_not_called_missing() -> None:
    """As where no process can be started: here the kernel refuses so long a name."""
    [said] = findings('command = "sh"\nenvironment.PATH = "/' + "x" * 300 + '"')
    assert said.startswith(f"4command: could not be looked for in /{'x' * 300} (File name too long)")


def findings(keys: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return what the machine lacks for a program, without file and line."""
    result = loaded(f"{POSTGRES}[program.x]\n{keys}\n", environ)
    return [
        finding.removeprefix("/etc/highlander.toml:").split(":", 1)[0] + finding.split(": program.x.", 1)[1]
        for finding in result.findings
    ]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            'command = "no-such-command"',
            '4command: there is no command "no-such-command" in the child\'s PATH; install',
        ),
        ('command = "sh"\nenvironment.PATH = "/nowhere"', '4command: there is no command "sh" in the child\'s PATH'),
        ('command = "/etc/passwd"', "4command: /etc/passwd is not an executable file; make it one"),
        ('command = "/etc"', "4command: /etc is not an executable file; make it one"),
        ('command = "/nowhere/x"', "4command: there is no file /nowhere/x; install it"),
        ('command = "./x"', '4command: "./x" is relative to wherever the daemon was started; write'),
        ('command = "./x"\ndirectory = "/"', "4command: there is no file /x; install it"),
        ('command = "sh"\ndirectory = "/nowhere"', "5directory: the directory /nowhere does not exist; create it"),
        ('command = "sh"\ndirectory = "/etc/passwd"', "5directory: /etc/passwd is not a directory; name one that is"),
        ('command = "sh"\nstdout = "/nowhere/x.log"', "5stdout: the directory /nowhere does not exist; create it"),
        ('command = "sh"\nuser = "no-such-user"', '5user: there is no user "no-such-user" on this machine; create it'),
        ('command = "sh"\nuser = 2147483641', "5user: has no entry in the user database, and so no group; set group"),
        ('command = "sh"\ngroup = "no-such"', '5group: there is no group "no-such" on this machine; create it'),
        (
            'command = "sh"\nsupplementary_groups = [\n"no-such"]',
            '6supplementary_groups[0]: there is no group "no-such"',
        ),
        (
            'command = "sh"\nenvironment_file = "/nowhere"',
            "5environment_file: /nowhere: there is no such environment file; create",
        ),
    ],
)
def test_what_the_machine_lacks_is_found_and_stops_nothing(keys: str, said: str) -> None:
    (finding,) = findings(keys, {"PATH": "/usr/bin:/bin"})
    assert finding.startswith(said)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can stop being root for a while")
def test_another_user_is_found_in_a_daemon_that_is_not_root() -> None:
    os.seteuid(65534)
    try:
        found = findings('command = "sh"\nuser = "daemon"', {"PATH": "/usr/bin:/bin"})
    finally:
        os.seteuid(0)
    said = "5user: is for a daemon that root runs: this one may start no program as another user"
    assert any(finding.startswith(said) for finding in found)


def test_nothing_is_found_where_nothing_is_missing(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("PATH=/usr/bin:/bin\n")
    keys = f'command = "sh"\ndirectory = "{tmp_path}"\nstdout = "{tmp_path}/log"\nenvironment_file = "{tmp_path}/env"'
    assert findings(f'{keys}\nuser = "root"\ngroup = 0', {"PATH": "/nowhere"}) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="a daemon of another user may start programs as its own alone")
def test_a_number_without_an_entry_lacks_nothing_with_a_group_of_its_own() -> None:
    assert findings('command = "sh"\nuser = 2147483641\ngroup = 0', {"PATH": "/usr/bin:/bin"}) == []


def test_a_missing_group_of_the_control_socket_is_found() -> None:
    (finding,) = loaded(POSTGRES + '[control]\ngroup = "no-such"\n').findings
    assert finding.startswith('/etc/highlander.toml:4: control.group: there is no group "no-such" on this machine;')


def test_one_default_that_is_missing_is_found_once() -> None:
    text = '[defaults]\nuser = "no-such"\ncommand = "sh"\n[program.a]\n[program.b]\n'
    (finding,) = loaded(POSTGRES + text, {"PATH": "/bin"}).findings
    assert finding.startswith("/etc/highlander.toml:4: defaults.user: ")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for programs of another user")
def test_programs_of_one_user_that_need_more_processes_than_it_may_have_are_warned_of() -> None:
    each = 'command = "/bin/sh"\nuser = "{}"\nlimits.nproc = {}\n'
    first, probed = each.format("daemon", 1), each.format("daemon", 3) + 'ready.exec = ["/bin/true"]\n'
    programs = f"[program.a]\n{first}[program.b]\n{probed}[program.c]\n{each.format('nobody', 1)}"
    [said] = loaded(POSTGRES + programs).warnings
    assert "program.a.limits: the 2 programs of its user need 3 processes or more, and RLIMIT_NPROC lets that" in said
    assert said.endswith("no more can be started (EAGAIN); raise the limit (nproc in limits)")

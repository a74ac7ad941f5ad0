"""``highlanderd import``: what becomes of a supervisord.conf, and that the result loads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import tomli

from highlanderd.config import Loaded, load
from highlanderd.errors import ConfigurationError
from highlanderd.supervisord import imported

BEAT = "[program:beat]\ncommand=/bin/sleep 60\n"


def made(directory: Path, text: str) -> str:
    """Write a supervisord.conf and return what is made of it."""
    path = directory / "supervisord.conf"
    path.write_text(text, "utf-8")
    return imported(path)


def programs(directory: Path, text: str) -> dict[str, dict[str, object]]:
    """Return the tables of the programs in what is made of the text."""
    found: dict[str, dict[str, object]] = tomli.loads(made(directory, text))["program"]
    return found


def loaded(directory: Path, text: str, **environ: str) -> Loaded:
    """Load what is made of the text, as the daemon would."""
    path = directory / "highlander.toml"
    path.write_text(made(directory, text))
    return load(path, {"PATH": os.environ["PATH"], **environ})


KINDS = {
    "the least": BEAT,
    "comments": "[program:beat]\ncommand=/bin/sleep 60 ; a remark\nuser=root # another\n; a line\n",
    "sections of the daemon": "[unix_http_server]\nfile=/run/s.sock\nchmod=0770\nusername=a\npassword=b\n"
    "[inet_http_server]\nport=*:9001\n[supervisord]\nlogfile=/var/log/s.log\nloglevel=blather\nminfds=1024\n"
    "umask=027\nenvironment=A=1,B='x y'\n[rpcinterface:supervisor]\na.b=c:d\n[supervisorctl]\n" + BEAT,
    "several processes": "[program:mail]\nprocess_name=%(program_name)s_%(process_num)02d\nnumprocs=4\n"
    "numprocs_start=8\ncommand=/bin/sleep %(process_num)d%(numprocs)d\n",
    "groups and priorities": BEAT
    + "priority=1\n[program:b]\ncommand=/bin/true\n[group:g]\nprograms=beat,b\npriority=9\n",
    "variables of the daemon": "[supervisord]\nenvironment=WHO='the world'\n"
    "[program:hello]\ncommand=/bin/echo %(ENV_WHO)s\nenvironment=GREETING='hello %(ENV_WHO)s'\n",
    "percent signs": "[program:beat]\ncommand=/bin/date +%%H %(here)s %(ENV_HOME)s\n",
    "event listener": BEAT + "[eventlistener:mem]\ncommand=memmon\nevents=TICK_60\nbuffer_size=10\n",
    "fastcgi": BEAT + "[fcgi-program:php]\ncommand=php-cgi\nsocket=tcp://127.0.0.1:9000\n",
    "output": BEAT + "redirect_stderr=true\nstdout_logfile=/var/log/beat.log\nstdout_logfile_maxbytes=10MB\n"
    "stdout_logfile_backups=3\nstderr_logfile_maxbytes=1MB\nstdout_capture_maxbytes=1MB\n",
    "output of a container": BEAT + "stdout_logfile=/dev/fd/1\nstdout_logfile_maxbytes=0\nstderr_logfile=NONE\n",
    "every other option": BEAT + "startsecs=10\nstartretries=3\nautorestart=true\nexitcodes=0,2\nstopsignal=SIGINT\n"
    "stopwaitsecs=3600\nstopasgroup=yes\nkillasgroup=yes\nautostart=no\ndirectory=/tmp\numask=077\n"
    "serverurl=AUTO\nstdout_syslog=true\n",
    "names that are none here": "[program:all]\ncommand=/bin/true\n[program:mail out]\ncommand=/bin/true\n"
    "[program:mail_out]\ncommand=/bin/true\n[program:caf\u00e9]\ncommand=/bin/true\n",
    "a byte order mark": f"\ufeff{BEAT}",
    "characters that TOML has no place for": BEAT + "environment=A='\x7f',B='\\x'\n",
    "dollars": BEAT + "environment=A='$HOME ${X} $$',B='file:///etc/hosts'\n",
    "no program": "[supervisord]\nnodaemon=true\n",
}


@pytest.mark.parametrize("text", KINDS.values(), ids=KINDS)
def test_what_is_made_loads_without_a_problem(tmp_path: Path, text: str) -> None:
    assert loaded(tmp_path, text, HOME="/root").configuration.postgres.dsn.get_secret_value().startswith("embedded")


def test_each_process_of_several_becomes_a_program(tmp_path: Path) -> None:
    found = programs(tmp_path, KINDS["several processes"])
    assert list(found) == ["mail_08", "mail_09", "mail_10", "mail_11"]
    assert found["mail_10"]["command"] == ["/bin/sleep", "104"]
    assert made(tmp_path, KINDS["several processes"] + "startretries=9\n").count("startretries = 9") == 1


def test_the_level_of_the_log_is_the_one_that_shows_as_much(tmp_path: Path) -> None:
    for given, written in {"BLATHER": "debug", "critical": "error", "warn": "warning"}.items():
        text = made(tmp_path, f"[supervisord]\nloglevel={given}\n{BEAT}")
        assert tomli.loads(text)["log"] == {"level": written}


def test_what_supervisord_does_unasked_is_written(tmp_path: Path) -> None:
    (beat,) = programs(tmp_path, BEAT).values()
    assert beat == {"command": ["/bin/sleep", "60"], "restart": "on-failure", "stop_to": "main"}
    assert tomli.loads(made(tmp_path, BEAT))["defaults"] == {"inherit_environment": True}


def test_output_goes_where_it_went(tmp_path: Path) -> None:
    (beat,) = programs(tmp_path, KINDS["output"]).values()
    assert (beat["stdout"], beat["stderr"]) == ("/var/log/beat.log", "/var/log/beat.log")
    assert (beat["log_max_bytes"], beat["log_backups"]) == ("10MiB", 3)
    (beat,) = programs(tmp_path, KINDS["output of a container"]).values()
    assert (beat["stdout"], beat["stderr"]) == ("inherit", "null")
    assert "log_max_bytes" not in beat


def test_a_child_gets_the_very_text_that_supervisord_would_give_it(tmp_path: Path) -> None:
    (beat,) = loaded(tmp_path, KINDS["dollars"]).configuration.programs.values()
    values = {name: value.get_secret_value() for name, value in beat.environment.items()}
    assert values == {"A": "$HOME ${X} $$", "B": "file:///etc/hosts"}


def test_percent_names_are_expanded_and_variables_left_to_the_daemon(tmp_path: Path) -> None:
    (beat,) = loaded(tmp_path, KINDS["percent signs"], HOME="/root").configuration.programs.values()
    assert beat.argv == ("/bin/date", "+%H", str(tmp_path), "/root")


def test_a_program_sees_what_the_daemon_sets_for_all(tmp_path: Path) -> None:
    (hello,) = loaded(tmp_path, KINDS["variables of the daemon"]).configuration.programs.values()
    assert hello.argv == ("/bin/echo", "the", "world")
    values = {name: value.get_secret_value() for name, value in hello.environment.items()}
    assert values == {"WHO": "the world", "GREETING": "hello the world"}


def test_a_program_s_options_see_what_its_own_environment_sets(tmp_path: Path) -> None:
    text = "[program:p]\ncommand=/bin/echo %(ENV_OWN)s %(ENV_PATH)s\nenvironment=OWN='a b',PATH='/x:%(ENV_PATH)s'\n"
    (p,) = loaded(tmp_path, text, PATH="/bin").configuration.programs.values()
    assert p.argv == ("/bin/echo", "a", "b", "/x:/bin")
    assert p.environment["PATH"].get_secret_value() == "/x:/bin"


def test_a_variable_that_stands_for_no_text_is_settled_by_the_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKERS", "2")
    monkeypatch.setenv("AUTO", "false")
    text = BEAT + (
        "numprocs=%(ENV_WORKERS)s\nprocess_name=%(program_name)s_%(process_num)d\nautostart=%(ENV_AUTO)s\n"
        "stopwaitsecs=%(ENV_WAIT)s\n"
    )
    found = loaded(tmp_path, text, WAIT="20").configuration.programs
    assert {name: program.autostart for name, program in found.items()} == {"beat_0": False, "beat_1": False}
    assert "# autostart = %(ENV_AUTO)s: as the variable was when this was imported" in made(tmp_path, text)


def test_what_has_no_equal_stands_in_a_comment_with_the_reason(tmp_path: Path) -> None:
    text = made(tmp_path, KINDS["every other option"] + "[eventlistener:mem]\ncommand=memmon\n")
    comments = " ".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("#"))
    assert "startretries = 3: left out, for a program is never given up" in comments
    assert "[eventlistener:mem]: left out, for there are no event listeners" in comments


def test_a_number_of_backups_that_is_none_here_becomes_the_nearest_one_and_is_named(tmp_path: Path) -> None:
    text = BEAT + "stdout_logfile=/tmp/beat.log\nstdout_logfile_backups={}\n"
    for given, written in (("2000", 1000), ("-1", 0)):
        assert loaded(tmp_path, text.format(given)).configuration.programs["beat"].log_backups == written
        assert f"# stdout_logfile_backups = {given}: log_backups is 0 to 1000" in made(tmp_path, text.format(given))
    assert "log_backups is" not in made(tmp_path, text.format(7))


def test_a_relative_path_is_named_for_it_starts_elsewhere_here(tmp_path: Path) -> None:
    text = made(tmp_path, BEAT + "stdout_logfile=beat.log\nstderr_logfile=%(ENV_LOGS)s/err.log\ndirectory=work\n")
    comments = " ".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("#"))
    for said in ("stdout_logfile = beat.log", "directory = work"):
        assert f"{said}: supervisord takes it from the directory that it runs in itself" in comments
    assert "err.log: supervisord takes" not in comments


@pytest.mark.parametrize(
    ("said", "key", "written"),
    [
        ("stopwaitsecs = 99999999", "stop_timeout", "31622400s"),
        ("stopwaitsecs = -1", "stop_timeout", "0s"),
        ("startsecs = -1", "ready", "0s"),
        ("umask = 7777", "umask", "777"),
    ],
)
def test_a_value_beyond_what_a_key_takes_becomes_the_nearest_one_and_is_named(
    tmp_path: Path, said: str, key: str, written: str
) -> None:
    (beat,) = programs(tmp_path, BEAT + said)
    assert programs(tmp_path, BEAT + said)[beat][key] == written
    assert f"# {said}: {key} is 0" in made(tmp_path, BEAT + said)
    assert loaded(tmp_path, BEAT + said).configuration.programs


@pytest.mark.parametrize("said", ["stopwaitsecs=+5", "stopwaitsecs=3_600", "startsecs=0", "umask=2", "umask=00000022"])
def test_a_number_that_supervisord_reads_otherwise_is_written_so_that_it_loads(tmp_path: Path, said: str) -> None:
    assert loaded(tmp_path, BEAT + said).configuration.programs
    assert said.partition("=")[0] not in made(tmp_path, BEAT + said).replace("umask = ", "")


@pytest.mark.parametrize("signal", ["STOP", "SIGTSTP", "cont", "19"])
def test_a_signal_that_ends_no_program_is_left_out_and_named(tmp_path: Path, signal: str) -> None:
    said = made(tmp_path, BEAT + f"stopsignal={signal}")
    assert f"# stopsignal = {signal}: left out, for it ends no program; TERM is sent instead" in said
    assert loaded(tmp_path, BEAT + f"stopsignal={signal}").configuration.programs["beat"].stop_signal == 15


def test_a_signal_may_have_its_other_name(tmp_path: Path) -> None:
    assert loaded(tmp_path, BEAT + "stopsignal=SIGPOLL").configuration.programs["beat"].stop_signal == 29


def test_rotation_without_a_file_is_left_out_and_named(tmp_path: Path) -> None:
    text = made(tmp_path, BEAT + "stdout_logfile_maxbytes=5MB\nstderr_logfile=NONE\nstderr_logfile_backups=3\n")
    assert "# stdout_logfile_maxbytes = 5MB: left out, for stdout goes to no file of its own here" in text
    assert "# stderr_logfile_backups = 3: left out, for stderr goes to no file of its own here" in text
    assert "log_" not in [line.split()[0] for line in text.splitlines() if line.startswith("log_")]


def test_the_stream_with_a_file_says_how_that_is_rotated(tmp_path: Path) -> None:
    text = (
        "stdout_logfile=/dev/stdout\nstdout_logfile_maxbytes=0\n"
        "stderr_logfile=/var/log/e.log\nstderr_logfile_maxbytes=5MB\n"
    )
    (beat,) = programs(tmp_path, BEAT + text).values()
    assert (beat["stderr"], beat["log_max_bytes"]) == ("/var/log/e.log", "5MiB")


def test_of_two_files_that_are_rotated_otherwise_the_first_one_rules_and_the_other_is_named(tmp_path: Path) -> None:
    text = BEAT + (
        "stdout_logfile=/tmp/o.log\nstdout_logfile_maxbytes=5MB\nstdout_logfile_backups=3\n"
        "stderr_logfile=/tmp/e.log\nstderr_logfile_maxbytes=1MB\nstderr_logfile_backups=3\n"
    )
    (beat,) = programs(tmp_path, text).values()
    assert beat["log_max_bytes"] == "5MiB"
    assert "# stderr_logfile_maxbytes = 1MB: log_max_bytes is for stdout and stderr together" in made(tmp_path, text)
    assert "stderr_logfile_backups" not in made(tmp_path, text)


def test_redirected_standard_error_has_no_file_of_its_own(tmp_path: Path) -> None:
    text = BEAT + "redirect_stderr=true\nstderr_logfile=/tmp/e.log\n"
    (beat,) = programs(tmp_path, text).values()
    assert "stderr" not in beat
    assert "# stderr_logfile = /tmp/e.log: left out, for redirect_stderr sends it where stdout goes" in made(
        tmp_path, text
    )


def test_a_log_file_that_a_variable_names_is_left_to_it(tmp_path: Path) -> None:
    text = BEAT + "stdout_logfile=%(ENV_LOG)s\nstdout_logfile_maxbytes=5MB\n"
    beat = loaded(tmp_path, text, LOG="/var/log/beat.log").configuration.programs["beat"]
    assert (beat.stdout, beat.log_max_bytes) == ("/var/log/beat.log", 5 * 2**20)


def test_a_program_of_no_process_is_left_out_and_named(tmp_path: Path) -> None:
    assert "# [program:beat]: left out, for its numprocs is below 1" in made(tmp_path, BEAT + "numprocs=0\n")


def test_a_variable_that_the_daemon_sets_is_left_out_and_named(tmp_path: Path) -> None:
    text = BEAT + "environment=HIGHLANDER_EPOCH=3,A=b\n"
    said = "# environment: HIGHLANDER_EPOCH is left out, for it is set by the daemon itself for each child"
    assert said in made(tmp_path, text)
    assert list(loaded(tmp_path, text).configuration.programs["beat"].environment) == ["A"]


def test_what_supervisord_sets_for_all_is_translated_as_for_one(tmp_path: Path) -> None:
    text = "[supervisord]\numask=7022\ndirectory=~\n[unix_http_server]\nfile=/x\nchmod=7770\n" + BEAT
    configuration = loaded(tmp_path, text, HOME="/root").configuration
    assert (configuration.programs["beat"].umask, configuration.control.mode) == (0o022, 0o770)
    assert configuration.programs["beat"].directory == Path("/root")


@pytest.mark.parametrize("option", ["environment", "exitcodes", "stdout_logfile", "serverurl"])
def test_an_option_that_supervisord_takes_empty_is_taken_empty(tmp_path: Path, option: str) -> None:
    assert loaded(tmp_path, BEAT + f"{option}=\n").configuration.programs["beat"].argv == ("/bin/sleep", "60")


def test_what_a_group_says_of_its_own_stands_in_a_comment(tmp_path: Path) -> None:
    found = made(tmp_path, BEAT + "[fcgi-program:php]\n[group: web]\nprograms=beat, php, gone\npriority=5\n")
    remarks = [line for line in found.splitlines() if line.startswith("# [group:web]")]
    assert remarks == [
        "# [group:web] priority = 5: left out, for the key after names the programs that one "
        "starts after; there is no other",
        "# [group:web] programs: gone is no program of these files; left out",
    ]


def test_no_password_of_a_socket_is_printed(tmp_path: Path) -> None:
    text = made(tmp_path, BEAT + "[inet_http_server]\nport=9001\nusername=u\npassword=hunter2\n"
                "[unix_http_server]\nfile=/x\npassword=hunter2\n")  # fmt: skip
    assert "hunter2" not in text


def test_a_name_that_cannot_be_used_is_replaced_and_said(tmp_path: Path) -> None:
    text = made(tmp_path, KINDS["names that are none here"])
    assert list(tomli.loads(text)["program"]) == ["all-1", "mail_out", "mail_out-2", "caf_"]
    assert '# "all" is no name for a program here, or is taken: it is "all-1"' in text


def test_the_name_of_a_single_process_is_left_out_and_said(tmp_path: Path) -> None:
    said = "# process_name = other: left out, for a program is called as its table"
    assert said in made(tmp_path, BEAT + "process_name=other\n")
    assert "process_name" not in made(tmp_path, BEAT + "process_name=%(program_name)s\n")


def test_includes_are_read_in_order_each_with_its_own_place(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    for name in ("b", "a"):
        (tmp_path / "conf.d" / f"{name}.conf").write_text(f"[program:{name}]\ncommand=/bin/echo %(here)s\n")
    found = programs(tmp_path, BEAT + "[include]\nfiles = conf.d/*.conf nowhere/*.ini\n")
    assert list(found) == ["beat", "a", "b"]
    assert found["a"]["command"] == ["/bin/echo", str(tmp_path / "conf.d")]


def test_the_place_of_a_file_may_have_a_percent_sign(tmp_path: Path) -> None:
    (tmp_path / "100%").mkdir()
    (beat,) = programs(tmp_path / "100%", "[program:beat]\ncommand=/bin/echo %(here)s\n").values()
    assert beat["command"] == ["/bin/echo", str(tmp_path / "100%")]


def test_a_section_that_comes_again_in_another_file_is_the_same_one(tmp_path: Path) -> None:
    """Two programs of it would be two copies of what is to run once; a pattern may even name the main file."""
    (tmp_path / "conf.d").mkdir()
    again = "[program:beat]\ndirectory=%(here)s\nautostart=false\n"
    (tmp_path / "conf.d" / "beat.conf").write_text(again)
    text = "[program:beat]\ncommand=/bin/echo %(here)s\nautostart=true\n[include]\nfiles = *.conf conf.d/*.conf\n"
    (beat,) = programs(tmp_path, text).items()
    assert beat[0] == "beat"
    assert beat[1]["command"] == ["/bin/echo", str(tmp_path)]
    assert (beat[1]["directory"], beat[1]["autostart"]) == (str(tmp_path / "conf.d"), False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[program:x]\n", "supervisord.conf: [program:x] command: is missing; write what to run"),
        ("[program:x]\ncommand=a 'b\n", "[program:x] command: cannot be split into words (no closing quotation)"),
        ("[program:x]\ncommand=a\nnumprocs=many\n", "[program:x] numprocs: many is no number; write digits"),
        (
            "[program:x]\ncommand=a\nnumprocs=%(ENV_NOPE)s\n",
            "[program:x] numprocs: names %(ENV_NOPE)s, which is not set",
        ),
        ("[program:x]\ncommand=a %(nope)s\n", "[program:x] command: names %(nope)s, which supervisord does not"),
        ("[program:x]\ncommand=a %H\n", '[program:x] command: holds a "%" that begins no %(name)s; write %%'),
        ("[program:x]\ncommand=a\nenvironment=A\n", '[program:x] environment: is not NAME="value",NAME="value"'),
        ("[program:x]\ncommand=a\nuser=\n", "[program:x] user: is empty; write a value, or leave the option out"),
        ("[program:x]\ncommand=a\ndirectory= ; none\n", "[program:x] directory: is empty; write a value"),
        ("[program:x]\ncommand=\n", "[program:x] command: is missing; write what to run"),
        ("[program:x]\ncommand='' a\n", "[program:x] command: is missing; write what to run"),
        ("[program:x]\ncommand=a\nnumprocs=\n", "[program:x] numprocs: is empty; write a value, or leave the option"),
        (
            "[program:x]\ncommand=a\nstopsignal=FOO\n",
            '[program:x] stopsignal: cannot become stop_signal here: "FOO" is',
        ),
        ("[program:x]\ncommand=a\nautorestart=maybe\n", '[program:x] autorestart: cannot become restart here: "maybe"'),
        ("[program:x]\ncommand=a\nstopasgroup=maybe\n", '[program:x] stopasgroup: cannot become stop_to here: "maybe"'),
        ("[program:x]\ncommand=a\nredirect_stderr=maybe\n", '[program:x] redirect_stderr: "maybe" is neither yes nor'),
        (
            "[program:x]\ncommand=a\nexitcodes=256\n",
            "[program:x] exitcodes: cannot become success_exit_codes here: 256",
        ),
        ("[other]\na=b\n", "supervisord.conf: this is no supervisord.conf: it has no [program:...] section"),
        ("plain text\n", "supervisord.conf: this is no supervisord.conf: File contains no section headers"),
        ("[include]\nfiles=%(nope)s\n", "[include] files: names %(nope)s"),
    ],
)
def test_what_supervisord_would_refuse_is_refused_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        made(tmp_path, text)
    assert said.lower() in str(refusal.value).lower()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.conf: cannot be read: no such file or directory"):
        imported(tmp_path / "none.conf")

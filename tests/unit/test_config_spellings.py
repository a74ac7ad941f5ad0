"""Other supervisors' words and expansions are answered with ours."""

from __future__ import annotations

import pytest

from highlanderd.config.program import ProgramKeys
from highlanderd.config.spellings import CIRCUS, NOBODYS, SYSTEMD
from highlanderd.config.supervisord import PROGRAM
from tests.support.configuration import POSTGRES, loaded, problems


def one(text: str) -> str:
    """Return the only problem of a file that is otherwise right."""
    (problem,) = problems(POSTGRES + text)
    return problem


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("autorestart", '"unexpected"', 'write restart = "on-failure"'),
        ("autorestart", "true", 'write restart = "always"'),
        ("autorestart", "false", 'write restart = "never"'),
        ("exitcodes", '"0,2"', "write success_exit_codes = [0, 2]"),
        ("stopwaitsecs", "60", 'write stop_timeout = "60s"'),
        ("stopsignal", '"INT"', 'write stop_signal = "INT"'),
        ("stopasgroup", "false", 'write stop_to = "main"'),
        ("stdout_logfile", '"NONE"', 'write stdout = "null"'),
        ("stderr_logfile", '"/var/log/x"', 'write stderr = "/var/log/x"'),
        ("numprocs", "2", "there is no such key here, for a program runs once in the whole cluster"),
        ("startsecs", "5", 'write ready = "5s"'),
        ("startretries", "3", "there is no such key here, for a program is never given up"),
    ],
)
def test_supervisords_words_are_answered_with_ours(key: str, value: str, said: str) -> None:
    answer = one(f'[program.x]\ncommand = "x"\n{key} = {value}')
    assert answer.startswith(f"5: program.x.{key}: this is supervisord's spelling; {said}")


def test_each_key_of_ours_that_supervisord_has_too_means_the_same() -> None:
    shared = set(PROGRAM) & set(ProgramKeys.model_fields)
    assert all(PROGRAM[key].key == key for key in shared)
    assert shared == {"autostart", "command", "directory", "environment", "umask", "user"}


@pytest.mark.parametrize("value", ["1", '"x"', "true", "[1]", "1.5", "{ a = 1 }", '""'])
def test_supervisords_words_are_answered_whatever_their_value(value: str) -> None:
    theirs = set(PROGRAM) - set(ProgramKeys.model_fields)
    text = '[program.x]\ncommand = "x"\n' + "".join(f"{key} = {value}\n" for key in theirs)
    found = problems(POSTGRES + text)
    assert len(found) == len(theirs)
    assert all("this is supervisord's spelling; " in problem for problem in found)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("after_start", '"x"', 'another supervisor\'s spelling; write after_ready = "x" (one command; after names'),
        ("start_after", '["b"]', 'another supervisor\'s spelling; write after = ["b"] (programs of the file'),
        ("RestartSec", "5", 'systemd\'s spelling; write backoff = "5s"'),
        ("MemoryMax", '"512M"', 'systemd\'s spelling; write limits = { memory_max = "512MiB" }'),
        ("MemoryMax", '"infinity"', 'systemd\'s spelling; write limits = { memory_max = "unlimited" }'),
        ("CPUQuota", '"150%"', 'systemd\'s spelling; write limits = { cpu_max = "150%" }'),
        ("TasksMax", "64", "systemd's spelling; write limits = { tasks_max = 64 }"),
        ("TasksMax", '"10%"', "systemd's spelling; write limits = { tasks_max = 256 }"),
        ("restart_sec", '"500ms"', 'systemd\'s spelling; write backoff = "500ms"'),
        ("RestartSec", '"5min 20s"', 'systemd\'s spelling; write backoff = "5m20s"'),
        ("Restart", '"no"', 'systemd\'s spelling; write restart = "never"'),
        ("KillSignal", '"SIGINT"', 'systemd\'s spelling; write stop_signal = "INT"'),
        ("KillMode", '"mixed"', 'systemd\'s spelling; write stop_to = "main"'),
        ("TimeoutStopSec", "90", 'systemd\'s spelling; write stop_timeout = "90s"'),
        ("StandardOutput", '"append:/var/log/x"', 'systemd\'s spelling; write stdout = "/var/log/x"'),
        ("ExecStartPre", '"x"', 'systemd\'s spelling; write before_start = "x"'),
        ("working_dir", '"/srv"', 'circus\' spelling; write directory = "/srv"'),
        ("copy_env", "true", "circus' spelling; write inherit_environment = true"),
        (
            "pre_start",
            '"x"',
            'another supervisor\'s spelling; write before_start = "x"',
        ),
        (
            "pre-start",
            '"x"',
            'another supervisor\'s spelling; write before_start = "x"',
        ),
    ],
)
def test_other_supervisors_words_are_answered_with_ours(key: str, value: str, said: str) -> None:
    answer = one(f'[program.x]\ncommand = "x"\n{key} = {value}')
    assert answer.startswith(f"5: program.x.{key}: this is {said}")


SPELLINGS = sorted({*SYSTEMD, *CIRCUS, *NOBODYS})


def test_no_key_of_ours_is_called_as_another_supervisors() -> None:
    assert not set(SPELLINGS) & set(ProgramKeys.model_fields)


@pytest.mark.parametrize("value", ["1", '"x"', "true", "[1]", "1.5", "{ a = 1 }", '""'])
def test_other_supervisors_words_are_answered_whatever_their_value(value: str) -> None:
    text = '[program.x]\ncommand = "x"\n' + "".join(f"{key} = {value}\n" for key in SPELLINGS)
    found = problems(POSTGRES + text)
    assert len(found) == len(SPELLINGS)
    assert all(" spelling; " in problem for problem in found)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            'stdout = "/var/log/%(program_name)s.log"',
            "x.stdout: %(program_name)s is supervisord's, and stays as it is; write x",
        ),
        (
            'environment = { A = "%(ENV_HOME)s" }',
            "x.environment: %(ENV_HOME)s is supervisord's, and stays as it is; write ${HOME}",
        ),
        (
            'directory = "$HOME/x"',
            "x.directory: $HOME stays as it is, for no shell reads it; write ${HOME}, or $$HOME where",
        ),
        ('environment = { PATH = "$HOME/bin" }', "x.environment: $HOME stays as it is"),
        ('after_stop = ["touch", "$HOME/x"]', "x.after_stop: $HOME stays as it is"),
    ],
)
def test_what_supervisord_or_a_shell_would_expand_is_warned_of(keys: str, said: str) -> None:
    found = loaded(f'{POSTGRES}[program.x]\ncommand = "true"\n{keys}', {"HOME": "/root", "PATH": "/bin"})
    assert [said in warning for warning in found.warnings] == [True]


@pytest.mark.parametrize(
    "keys",
    [
        'command = ["sh", "-c", "echo $HOME"]',
        'command = ["awk", "{ print $1 }"]',
        'command = ["true", "$${HOME}", "$$HOME", "%(asctime)s"]',
        'command = "true"\nenvironment = { PASSWORD = "se$cret" }',
        'command = "true"\nbefore_stop = ["bash", "-c", "echo $HOME"]',
        'command = "true"\nready = { exec = ["/bin/sh", "-c", "test -e $HOME"] }',
        'command = "true"\nalive = { exec = "sh -c \'a $HOME\'" }',
    ],
)
def test_a_dollar_that_may_be_meant_is_not_warned_of(keys: str) -> None:
    assert loaded(f"{POSTGRES}[program.x]\n{keys}", {"HOME": "/root", "PATH": "/bin"}).warnings == ()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("A=hunter2 true", 'begin with the program, and write environment = { A = "..." }'),
        ("A=/hunter2/x true", 'begin with the program, and write environment = { A = "..." }'),
        ("cd /srv", 'it is a shell\'s own; write ["sh", "-c", "..."]'),
    ],
)
def test_a_command_that_only_a_shell_could_run_is_told_its_cure(command: str, said: str) -> None:
    [finding] = loaded(f'{POSTGRES}[program.x]\ncommand = "{command}"', {"PATH": "/nowhere"}).findings
    assert said in finding
    assert "hunter2" not in finding


def test_a_warning_about_the_defaults_comes_once() -> None:
    text = '[defaults]\ndirectory = "$HOME"\n[program.a]\ncommand = "true"\n[program.b]\ncommand = "true"\n'
    assert len(loaded(POSTGRES + text, {"HOME": "/root", "PATH": "/bin"}).warnings) == 1

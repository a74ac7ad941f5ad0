"""``--check --print``: every key with its value and its place, and no secret."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli

from highlanderd.config import check, keys_of, load

MAIN = """[daemon]
include = "more.toml"
run_dir = "run"
[postgres]
dsn = "postgresql://a:hunter2@db1/ops"
[defaults]
umask = "027"
environment = { A = "secret-a", B = "secret-b" }
"""
MORE = """[program."a.b"]
command = ["sleep", "${SECONDS}"]
environment.B = "secret-c"
limits = { nofile = 99, core = "unlimited" }
ready = { exec = ["ask", "${TOKEN}"], period = 5 }
before_start = ["move", "--token", "${TOKEN}", "$$x"]
"""


ENVIRON = {"SECONDS": "60", "TOKEN": "secret-d", "PATH": "/bin"}


@pytest.fixture
def merged(tmp_path: Path) -> dict[str, str]:
    """Return each line of the print by the key that it begins with, spaces made one."""
    (tmp_path / "main.toml").write_text(MAIN)
    (tmp_path / "more.toml").write_text(MORE)
    text = check(tmp_path / "main.toml", ENVIRON).merged().replace(f"{tmp_path}/", "")
    assert tomli.loads(text)["program"]["a.b"]["command"] == ["sleep", "${SECONDS}"]
    assert tomli.loads(text)["program"]["a.b"]["before_start"] == ["move", "--token", "${TOKEN}", "$$x"]
    assert tomli.loads(text)["program"]["a.b"]["ready"] == {"exec": ["ask", "${TOKEN}"], "period": 5}
    assert "hunter2" not in text
    assert "secret" not in text
    return {line.split(" = ")[0]: " ".join(line.split()) for line in text.splitlines() if " = " in line}


def test_a_value_is_followed_by_the_file_and_line_that_say_it(merged: dict[str, str]) -> None:
    assert merged["include"] == 'include = "more.toml" # main.toml:2'
    assert merged["umask"] == 'umask = "027" # main.toml:7'
    assert merged["command"] == 'command = ["sleep", "${SECONDS}"] # more.toml:2'


def test_what_no_file_says_is_called_default(merged: dict[str, str]) -> None:
    assert merged["namespace"] == 'namespace = "highlander" # default'
    assert merged["node"].endswith("# default")


def test_what_follows_from_another_key_names_that_key(merged: dict[str, str]) -> None:
    assert merged["socket"].endswith('run/control.sock" # main.toml:3')


def test_a_secret_is_hidden_and_its_place_is_told(merged: dict[str, str]) -> None:
    assert merged["dsn"] == 'dsn = "***" # main.toml:5'
    assert merged["environment.A"] == 'environment.A = "***" # main.toml:8'
    assert merged["environment.B"] == 'environment.B = "***" # more.toml:3'


def test_a_table_is_printed_key_by_key_as_it_was_written(merged: dict[str, str]) -> None:
    assert merged["limits.nofile"] == "limits.nofile = 99 # more.toml:4"
    assert merged["limits.core"] == 'limits.core = "unlimited" # more.toml:4'


def test_paths_are_shown_as_the_daemon_uses_them(tmp_path: Path) -> None:
    keys = 'command = "true"\ndirectory = "sub"\nstdout = "./out.log"\nstderr = "/dev/stdout"\n'
    (tmp_path / "main.toml").write_text(MAIN)
    (tmp_path / "more.toml").write_text(f'[program.beat]\n{keys}environment_file = ["env", "-perhaps.env"]\n')
    beat = tomli.loads(check(tmp_path / "main.toml", {}).merged())["program"]["beat"]
    assert beat["directory"] == str(tmp_path / "sub")
    assert (beat["stdout"], beat["stderr"]) == (str(tmp_path / "out.log"), "inherit")
    assert beat["environment_file"] == [str(tmp_path / "env"), f"-{tmp_path}/perhaps.env"]


def test_one_program_s_keys_are_those_of_the_print(tmp_path: Path) -> None:
    (tmp_path / "main.toml").write_text(MAIN)
    (tmp_path / "more.toml").write_text(MORE)
    blob = load(tmp_path / "main.toml", ENVIRON).sources_json()
    (tmp_path / "more.toml").unlink()  # what was loaded is what is shown
    found = {one.key: (one.value, one.source.rpartition("/")[2]) for one in keys_of(blob, ENVIRON, "a.b")}
    assert found["command"] == (("sleep", "${SECONDS}"), "more.toml:2")
    assert found["umask"] == ("027", "main.toml:7")
    assert found["environment.A"] == ("***", "main.toml:8")
    assert found["stop_timeout"][1] == "default"
    assert keys_of(blob, ENVIRON, "b") == ()

"""What is loaded is complete, hides its secrets, and can be loaded again from memory."""

from __future__ import annotations

import marshal
from pathlib import Path

import pytest

from highlanderd.config import ProgramConfig, check, difference, load, reload_from
from highlanderd.config.values import EnvironmentFile
from highlanderd.core.key import lock_id
from highlanderd.errors import ConfigurationError
from tests.support.configuration import MAIN, POSTGRES, loaded, reading

PROGRAM = '[program.beat]\ncommand = "celery -A shop beat"\n'


def program(keys: str = "", text: str = "", environ: dict[str, str] | None = None) -> ProgramConfig:
    """Return the program ``beat`` with these keys."""
    return loaded(f"{POSTGRES}{PROGRAM}{keys}\n{text}", environ).configuration.programs["beat"]


def test_the_defaults_are_those_of_the_reference() -> None:
    configuration = loaded(POSTGRES).configuration
    assert (configuration.postgres.lease, configuration.postgres.schema_) == (10.0, "highlander")
    assert configuration.control.socket == Path("/run/highlander/control.sock")
    assert configuration.control.mode == 0o660
    assert configuration.metrics.listen == "127.0.0.1:9841"
    beat = program()
    assert (beat.restart, beat.stop_signal, beat.stop_timeout, beat.stop_to) == ("always", 15, 10.0, "tree")
    assert (beat.backoff, beat.backoff_max, beat.backoff_reset) == (1.0, 60.0, 60.0)
    assert (beat.umask, beat.stdout, beat.log_max_bytes, beat.log_backups) == (0o022, "inherit", 50_000_000, 10)
    assert (beat.autostart, beat.inherit_environment, beat.success_exit_codes) == (True, False, frozenset({0}))
    assert (beat.hooks, beat.hook_timeout) == ({}, 30.0)
    assert program('before_start = "move up"\nafter_stop = ["move", "down"]').hooks == {
        "before_start": ("move", "up"),
        "after_stop": ("move", "down"),
    }
    assert (beat.prefer, beat.never, beat.failback, beat.spread) == ((), (), None, True)
    assert program('failback = "never"').failback is None


def test_the_defaults_table_holds_for_all_programs_and_yields_to_each() -> None:
    beat = program(
        'stop_timeout = "1m"\nenvironment = { B = "beat" }',
        '[defaults]\nstop_timeout = 5\numask = "077"\nenvironment = { A = "all", B = "all" }\n',
    )
    assert (beat.stop_timeout, beat.umask) == (60.0, 0o077)
    assert {name: value.get_secret_value() for name, value in beat.environment.items()} == {"A": "all", "B": "beat"}


def test_the_control_socket_follows_run_dir() -> None:
    assert loaded(POSTGRES + '[daemon]\nrun_dir = "run"').configuration.control.socket == Path("/etc/run/control.sock")
    apart = loaded(POSTGRES + '[daemon]\nrun_dir = "/run/h"\n[control]\nsocket = "/tmp/s"').configuration
    assert apart.control.socket == Path("/tmp/s")


def test_relative_paths_start_at_the_file_that_says_so() -> None:
    beat = program('directory = "../srv"\nenvironment_file = "env"\nstdout = "./beat.log"\nstderr = "null"')
    assert beat.directory == Path("/srv")
    assert beat.environment_file == (EnvironmentFile(Path("/etc/env")),)
    assert (beat.stdout, beat.stderr) == ("/etc/beat.log", "null")
    assert loaded('[postgres]\ndsn = "embedded:pg"\n').configuration.embedded_directory == Path("/etc/pg")


def test_a_relative_main_file_makes_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "h.toml").write_text(POSTGRES + '[daemon]\nstate_dir = "state"\n')
    monkeypatch.chdir(tmp_path)
    assert load(Path("h.toml"), {}).configuration.daemon.state_dir == tmp_path / "state"


def test_the_command_is_shown_as_configured_and_executed_expanded() -> None:
    beat = loaded(
        POSTGRES + "[program.beat]\ncommand = \"run --token ${TOKEN} '$$x y'\"\n", {"TOKEN": "a b"}
    ).configuration.programs["beat"]
    assert beat.command == ("run", "--token", "${TOKEN}", "$$x y")
    assert beat.argv == ("run", "--token", "a b", "$x y")


def test_a_command_can_be_an_array() -> None:
    text = POSTGRES + '[program.beat]\ncommand = ["sh", "-c", "echo $HOME | cat"]\n'
    assert loaded(text).configuration.programs["beat"].argv == ("sh", "-c", "echo $HOME | cat")


def test_secrets_are_read_from_files_beside_the_file_that_says_so() -> None:
    text = '[postgres]\ndsn = "file:${CREDS}/dsn"\n[program.beat]\ncommand = "x"\nenvironment.TOKEN = "file:token"\n'
    files = {str(MAIN): text, "/creds/dsn": "host=db password=hunter2\n", "/etc/token": "abc\r\n"}
    configuration = load(MAIN, {"CREDS": "/creds"}, reading(files)).configuration
    assert configuration.postgres.dsn.get_secret_value() == "host=db password=hunter2"
    assert configuration.programs["beat"].environment["TOKEN"].get_secret_value() == "abc"


def test_what_a_variable_holds_never_names_a_secrets_file() -> None:
    beat = program('environment.URL = "${URL}"', environ={"URL": "file:/etc/shadow"})
    assert beat.environment["URL"].get_secret_value() == "file:/etc/shadow"


def test_nothing_secret_shows_in_what_is_printed() -> None:
    text = '[postgres]\ndsn = "host=db password=hunter2"\n[program.beat]\ncommand = "x ${S}"\nenvironment.A = "${S}"\n'
    result = loaded(text, {"S": "hunter2"})
    beat = result.configuration.programs["beat"]
    shown = f"{result!r} {result.configuration!r} {beat!r} {beat} {beat.environment} {result.configuration.postgres}"
    assert "hunter2" not in shown


def test_the_devices_of_the_daemons_own_streams_mean_inherit() -> None:
    beat = program('stdout = "/dev/stdout"\nstderr = "/dev/stderr"')
    assert (beat.stdout, beat.stderr) == ("inherit", "inherit"), "nothing is made or rotated there"


def test_the_null_device_means_null() -> None:
    assert program('stdout = "/dev/null"').stdout == "null", "supervisord's files have it, and a logger opens no device"


def test_plain_types_come_out_that_can_be_marshalled() -> None:
    beat = program('environment.A = "${A}"\nstdout = "./x"\nuser = "${A}"', environ={"A": "a"})
    marshal.dumps([beat.argv, beat.command, beat.stdout, beat.user, beat.name], 2)
    assert type(beat.environment["A"].get_secret_value()) is str


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        program().umask = 0
    with pytest.raises(TypeError):
        loaded(POSTGRES).configuration.programs["x"] = program()  # type: ignore[index]


def test_the_lock_id_comes_from_namespace_and_key() -> None:
    assert program().lock_id("highlander") == lock_id("highlander", "beat")
    assert program('lock_key = "other"').lock_id("staging") == lock_id("staging", "other")
    assert program("lock_key = -5").lock_id("staging") == -5
    assert program("lock_key = [1, -52318]").advisory_lock("staging").pair == (1, -52318)


def test_included_files_come_in_sorted_order_and_each_once(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    for name in ("b", "a", "c"):
        (tmp_path / "conf.d" / f"{name}.toml").write_text(f'[program.{name}]\ncommand = "x"\n')
    (tmp_path / "conf.d" / "c.toml~").write_text("not TOML")
    main = tmp_path / "main.toml"
    main.write_text(POSTGRES + '[daemon]\ninclude = ["conf.d/*.toml", "conf.d/a.toml", "none/*.toml", "*.toml"]\n')
    result = load(main, {})
    assert list(result.configuration.programs) == ["a", "b", "c"]
    assert list(result.sources) == [str(main), *(str(tmp_path / "conf.d" / f"{name}.toml") for name in "abc")]
    assert [warning.split(": ", 1)[1] for warning in result.warnings] == [
        'daemon.include[2]: there is no directory for "none/*.toml"; correct it, or create one'
    ]


@pytest.mark.parametrize(
    "pattern", ["conf.d/*.toml", "conf.d/[a-z]*", "conf.d/*/x.toml", "**/x.toml", "?", "/tmp/*.no"]
)
def test_a_directory_without_programs_is_no_mistake(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "conf.d").mkdir()
    main = tmp_path / "main.toml"
    main.write_text(f'{POSTGRES}[program.a]\ncommand = "x"\n[daemon]\ninclude = "{pattern}"\n')
    assert load(main, {}).warnings == ()


@pytest.mark.parametrize("pattern", ["conf.d/*.toml", "conf.d/[a-z]*", "main.toml/*", "/nonexistent/*.toml"])
def test_a_pattern_without_its_directory_is_said(tmp_path: Path, pattern: str) -> None:
    main = tmp_path / "main.toml"
    main.write_text(f'{POSTGRES}[program.a]\ncommand = "x"\n[daemon]\ninclude = "{pattern}"\n')
    [warning] = load(main, {}).warnings
    assert warning.endswith(f'there is no directory for "{pattern}"; correct it, or create one')
    assert reload_from(load(main, {}).sources_json(), {}).warnings == ()


def test_it_loads_again_from_memory_when_every_file_has_changed(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.toml").write_text('[program.a]\ncommand = "a"\nenvironment.T = "file:token"\n')
    (tmp_path / "conf.d" / "token").write_text("abc")
    main = tmp_path / "main.toml"
    main.write_text('[postgres]\ndsn = "embedded:pg"\n[daemon]\ninclude = "conf.d/*.toml"\n')
    first = load(main, {})
    blob = first.sources_json()
    (tmp_path / "conf.d" / "a.toml").write_text("broken")
    (tmp_path / "conf.d" / "b.toml").write_text("broken")
    (tmp_path / "conf.d" / "token").unlink()
    main.unlink()
    again = reload_from(blob, {})
    assert again.configuration == first.configuration
    assert again.sources == first.sources
    assert again.sources_json() == blob
    assert again.findings == ()


def test_loading_from_memory_in_another_environment_says_what_is_missing() -> None:
    blob = loaded(POSTGRES + '[program.x]\ncommand = "${A}"\n', {"A": "x"}).sources_json()
    with pytest.raises(ConfigurationError, match="A is not set"):
        reload_from(blob, {})


def test_sources_hold_no_secrets_file_and_their_bytes_hold_all() -> None:
    files = {str(MAIN): '[postgres]\ndsn = "file:/dsn"\n', "/dsn": "host=hunter2"}
    result = load(MAIN, {}, reading(files))
    assert result.sources == {str(MAIN): files[str(MAIN)]}
    assert b"hunter2" in result.sources_json()


def test_a_reload_names_the_keys_that_differ() -> None:
    old = program('umask = "022"\nenvironment.A = "1"')
    assert difference(old, program('environment.A = "1"')) == ()
    assert difference(old, program('umask = "027"\nenvironment.A = "2"')) == ("umask", "environment")


def test_a_command_that_expands_to_another_has_changed() -> None:
    text = '[program.beat]\ncommand = ["${A}"]\n'
    old, new = (loaded(POSTGRES + text, {"A": a}).configuration.programs["beat"] for a in ("x", "y"))
    assert difference(old, new) == ("command",)


def test_sections_are_compared_like_programs() -> None:
    old = loaded(POSTGRES).configuration.postgres
    new = loaded('[postgres]\ndsn = "embedded"\nschema = "other"\nlease = 20').configuration.postgres
    assert difference(old, new) == ("lease", "schema")


def test_a_check_names_problems_and_findings_together() -> None:
    text = POSTGRES + '[program.a]\ncommand = "/nowhere/a"\n[program.b]\n'
    judgement = check(MAIN, {}, reading({str(MAIN): text}))
    assert [problem.split(": ", 1)[1] for problem in judgement.problems] == [
        "program.a.command: there is no file /nowhere/a; install it, or correct the path",
        'program.b.command: is missing; write command = ["celery", "-A", "shop", "beat"]',
    ]

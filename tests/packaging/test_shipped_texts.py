"""What is made for people: manual pages, completions, the configuration as shipped, the changelog."""

from __future__ import annotations

import ast
import importlib
import itertools
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import BaseModel

from highlanderd import __version__
from highlanderd.command_line import _parser as daemon_parser
from highlanderd.config import SECTIONS, ProgramKeys, load
from highlanderd.ctl.commands import COMMANDS
from tests.support.packages import ROOT, tool

PACKAGING = ROOT / "packaging"
NOW = datetime(2026, 1, 31, tzinfo=UTC)


def of_packaging(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for directory in ("docs/generate", "packaging/build"):
        monkeypatch.syspath_prepend(ROOT / directory)
    return importlib.import_module(name)


# ------------------------------------------------------------------------------------------------------ manual pages


@pytest.fixture
def manual(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    pages: dict[str, str] = of_packaging("manual", monkeypatch).pages(NOW)
    return pages


def read(page: str) -> str:
    """Undo what roff needs and people do not see."""
    return re.sub(r"\\f[BPI]|\\&", "", page).replace("\\-", "-").replace("\\(aq", "'").replace("\\e", "\\")


def test_every_key_has_its_place_in_the_manual(manual: dict[str, str]) -> None:
    page = read(manual["highlander.toml.5"])
    models: dict[str, type[BaseModel]] = {**SECTIONS, "": ProgramKeys}
    for table, model in models.items():
        for field, info in model.model_fields.items():
            key = info.alias or field
            assert f".SS {table}.{key}\n" in page if table else f".SS {key}\n" in page


def test_every_option_and_every_command_is_in_the_manual(manual: dict[str, str]) -> None:
    page = read(manual["highlanderd.8"])
    for action in daemon_parser()._actions:
        if action.help != "==SUPPRESS==" and action.dest != "help":
            assert f"\n{', '.join(action.option_strings)}" in page
    client = read(manual["highlanderctl.1"])
    for command in COMMANDS:
        assert f".SS highlanderctl {command}" in client


def test_mandoc_has_nothing_to_say_about_the_manual(manual: dict[str, str], tmp_path: Path) -> None:
    for name, text in manual.items():
        page = tmp_path / name
        page.write_text(text)
        lint = subprocess.run([tool("mandoc"), "-T", "lint", str(page)], stdout=subprocess.PIPE, text=True)
        assert not lint.stdout


# ------------------------------------------------------------------------------------------------------- completions


@pytest.fixture
def completions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for place, text in of_packaging("completions", monkeypatch).files().items():
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


NODES = "test $1 != cluster || printf '\\nNODE\\tVERSION\\na\\t1\\nb\\t1\\n'\n"
"""The second table of ``highlanderctl cluster -o tsv``."""


def completed(completions: Path, *words: str) -> list[str]:
    """Return what bash offers for the last of these words."""
    script = completions / f"bash-completion/completions/{words[0]}"
    quoted = " ".join(f"'{word}'" for word in words)
    order = f". {script}; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _{words[0]}; echo ${{COMPREPLY[*]}}"
    daemon = completions / "highlanderctl"  # what the completion asks for names, in the place of a running daemon
    daemon.write_text("#!/bin/sh\necho PROGRAM STATE\necho beat leading\necho bot waiting\n" + NODES)
    daemon.chmod(0o755)
    environment = {"PATH": f"{completions}:{os.environ['PATH']}"}
    run = subprocess.run([tool("bash"), "-c", order], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return run.stdout.split()


def test_completions_asked_for_help_write_nothing(tmp_path: Path) -> None:
    script = ROOT / "packaging" / "build" / "completions.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script, "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert "directory" in done.stdout
    assert not list(tmp_path.iterdir())


def test_bash_completes_commands_options_and_names(completions: Path) -> None:
    assert set(COMMANDS) <= set(completed(completions, "highlanderctl", ""))
    assert not [word for word in completed(completions, "highlanderctl", "") if word.startswith("-")]
    assert completed(completions, "highlanderctl", "release", "") == ["beat", "bot"]
    assert completed(completions, "highlanderctl", "rel") == ["release", "reload"]
    assert completed(completions, "highlanderctl", "--socket", "x", "release", "b") == ["beat", "bot"]
    assert completed(completions, "highlanderctl", "release", "--t") == ["--to", "--timeout"]
    assert completed(completions, "highlanderctl", "ledger", "s") == ["show", "set-lease"]
    assert completed(completions, "highlanderctl", "ledger", "show", "--j") == ["--json"]
    assert completed(completions, "highlanderctl", "wait", "--for", "") == ["leading", "ready", "stopped", "finished"]
    assert completed(completions, "highlanderctl", "release", "--for", "") == []
    assert completed(completions, "highlanderctl", "status", "-o", "t") == ["table", "tsv"]
    assert completed(completions, "highlanderctl", "release", "beat", "--to", "") == ["a", "b"]
    assert completed(completions, "highlanderctl", "drain", "") == ["a", "b"]
    assert completed(completions, "highlanderctl", "signal", "U") == ["USR1", "USR2"]
    assert completed(completions, "highlanderctl", "signal", "HUP", "b") == ["beat", "bot"]
    assert completed(completions, "highlanderd", "--print-") == ["--print-schema", "--print-json-schema"]


def test_the_workers_own_option_is_not_completed(completions: Path) -> None:
    assert "--worker" not in completed(completions, "highlanderd", "--")


def test_zsh_and_fish_accept_their_completions(completions: Path) -> None:
    for path in completions.glob("zsh/*/*"):
        subprocess.run([tool("zsh"), "-n", str(path)], check=True)
    for path in completions.glob("fish/*/*"):
        subprocess.run([tool("fish"), "--no-execute", str(path)], check=True)


# ----------------------------------------------------------------------------------------- configuration, changelog


def shipped() -> str:
    return (PACKAGING / "files/highlander.toml").read_text("utf-8")


def uncommented(*keys: str) -> str:
    """Return the shipped file with the first example of these keys in force."""
    text = shipped()
    for key in keys:
        text, done = re.subn(rf"^#({key} = )", r"\1", text, count=1, flags=re.MULTILINE)
        assert done, key
    return text


def test_the_shipped_configuration_lacks_nothing_but_a_dsn_and_a_program(tmp_path: Path) -> None:
    file, program = tmp_path / "highlander.toml", tmp_path / "highlander/conf.d/beat.toml"
    program.parent.mkdir(parents=True)
    program.write_text('[program.beat]\ncommand = ["true"]\n')
    file.write_text(uncommented("dsn"))
    loaded = load(file, {"PATH": "/usr/bin:/bin"})
    assert loaded.warnings == ()
    assert list(loaded.configuration.programs) == ["beat"]


def test_the_defaults_that_the_shipped_configuration_names_are_the_defaults(tmp_path: Path) -> None:
    plain, told = tmp_path / "plain.toml", tmp_path / "told.toml"
    plain.write_text(uncommented("dsn"))
    told.write_text(
        uncommented(
            "dsn",
            "namespace",
            "lease",
            "schema",
            "on_connection_loss",
            "standby_connections",
            "mode",
            "listen",
            "level",
            "format",
            "stop_timeout",
        )
    )
    [plainly, so] = [load(file, {"PATH": "/usr/bin:/bin"}).configuration for file in (plain, told)]
    assert all(getattr(plainly, name) == getattr(so, name) for name in SECTIONS)


def test_the_example_program_of_the_shipped_configuration_loads(tmp_path: Path) -> None:
    file = tmp_path / "highlander.toml"
    file.write_text(re.sub(r"^#(?=\[program|command|user|directory)", "", uncommented("dsn"), flags=re.MULTILINE))
    assert list(load(file, {"PATH": "/usr/bin:/bin"}).configuration.programs) == ["celery-beat"]


def test_the_changelog_begins_with_this_version(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = of_packaging("changes", monkeypatch)
    [newest, *_] = changes.versions((ROOT / "docs/changelog.md").read_text("utf-8"), NOW)
    version, date, notes = newest
    assert (version, date) == (__version__, NOW)
    assert notes


def test_dpkg_reads_the_changelog_and_each_item_of_it_as_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    changes = of_packaging("changes", monkeypatch)
    long = "many words " * 20
    text = f"# Changelog\n\n## 0.2.0\n\nThe second.\n\n* {long}\n* `b` is new.\n\n## 0.1.0, 2025-12-24\n\nFirst.\n"
    file = tmp_path / "changelog"
    file.write_text(changes.debian(changes.entries(text, NOW, "A Packager <a@b.invalid>")))
    command = [tool("dpkg-parsechangelog"), "--all", "--file", str(file), "--show-field"]
    shown = [
        subprocess.run([*command, field], check=True, capture_output=True, text=True)
        for field in ("Changes", "Version", "Timestamp")
    ]
    assert [run.stderr for run in shown] == ["", "", ""]
    assert shown[0].stdout.count("\n  * ") == 4
    assert shown[1].stdout == "0.2.0-1\n"
    assert shown[2].stdout == f"{NOW.timestamp():.0f}\n"
    assert not [line for line in file.read_text().splitlines() if line.lstrip().startswith("-  ")]


def test_a_dated_version_keeps_its_date(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = of_packaging("changes", monkeypatch)
    [_, old] = changes.versions("# Changelog\n\n## 0.2.0\n\n* New.\n\n## 0.1.0, 2025-12-24\n\nFirst.\n", NOW)
    assert old == ("0.1.0", datetime(2025, 12, 24, tzinfo=UTC), ("First.",))


def test_dpkg_orders_versions_as_they_were_released(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = of_packaging("changes", monkeypatch)
    order = [changes.system_version(version) for version in ("1.0.0.dev3", "1.0.0a1", "1.0.0rc1", "1.0.0", "1.0.1")]
    for older, newer in itertools.pairwise(order):
        subprocess.run([tool("dpkg"), "--compare-versions", older, "lt", newer], check=True)


# ---------------------------------------------------------------------------------------------------------- programs


def test_what_looks_for_a_python_runs_on_an_old_one() -> None:
    ast.parse((PACKAGING / "files/launcher").read_text("utf-8"), feature_version=(3, 6))


def test_the_launcher_takes_the_versions_that_the_packages_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    pythons = of_packaging("bundle", monkeypatch).PYTHONS
    launcher = (PACKAGING / "files/launcher").read_text("utf-8")
    minors = [int(version.removeprefix("3.")) for version in pythons]
    assert f"OLDEST, NEWEST = {min(minors)}, {max(minors)}\n" in launcher
    description = (PACKAGING / "nfpm.yaml").read_text("utf-8")
    assert f"python3 (<< 3.{max(minors) + 1})" in description
    assert f"python3 < 3.{max(minors) + 1})" in description


@pytest.mark.parametrize("script", sorted((PACKAGING / "scripts").iterdir()), ids=lambda path: path.name)
def test_a_maintainer_script_is_proper_shell(script: Path) -> None:
    subprocess.run([tool("sh"), "-n", str(script)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--shell=sh", str(script)], check=True)

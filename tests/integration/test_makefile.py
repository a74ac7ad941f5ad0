"""What make sets up in a checkout: once, with a Python that is new enough, and one make at a time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.processes import PATIENCE, children, name_of
from tests.support.wait import wait_for

ROOT = Path(__file__).parents[2]
PYTHON = """#!/bin/sh
[ "$1" = -c ] && exit {old}
echo "$2" >>log
mkdir -p .venv/bin
printf '#!/bin/sh\necho pip >>log\nuntil read go <go; do :; done\n' >.venv/bin/pip
chmod +x .venv/bin/pip
"""
"""Stands in for an interpreter; the pip of its virtual environment waits for a line in a FIFO each time.

It may have opened it while the writer of the line before had not closed it yet, and find no line."""


@pytest.fixture
def makes() -> Iterator[list[subprocess.Popen[str]]]:
    """Return where the makes of a test stand that are ended with it, with all that they have started."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for one in started:
        with suppress(ProcessLookupError):
            os.killpg(one.pid, signal.SIGKILL)
        one.communicate()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return what make needs of a checkout."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "packaging/requirements").mkdir(parents=True)
    for name in ("pyproject.toml", "packaging/requirements/dev.txt"):
        (tmp_path / name).touch()
    (tmp_path / "log").touch()
    subprocess.run(["mkfifo", str(tmp_path / "go")], check=True)
    return tmp_path


def make(checkout: Path, makes: list[subprocess.Popen[str]], *, old: int = 0) -> subprocess.Popen[str]:
    python = checkout / "python3.10"
    python.write_text(PYTHON.format(old=old))
    python.chmod(0o755)
    command = ["make", ".venv/ready", f"PYTHON={python}"]
    out, err = subprocess.PIPE, subprocess.STDOUT
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # of `make test`
    makes.append(
        subprocess.Popen(
            command, cwd=checkout, env=environment, stdout=out, stderr=err, text=True, start_new_session=True
        )
    )
    return makes[-1]


def below(pid: int) -> list[str]:
    """Return the names of all processes below one."""
    return [name for child in children(pid) for name in (name_of(child), *below(child))]


def test_a_second_make_waits_for_the_first_and_finds_it_done(
    checkout: Path, makes: list[subprocess.Popen[str]]
) -> None:
    log = checkout / "log"
    first = make(checkout, makes)
    wait_for(lambda: log.read_text().split() == ["venv", "pip"], what="the first sets up")
    second = make(checkout, makes)
    wait_for(lambda: "flock" in below(second.pid), what="the second waits")
    (checkout / "go").write_text("go\n")
    wait_for(lambda: log.read_text().split() == ["venv", "pip", "pip"], what="the first goes on")
    (checkout / "go").write_text("go\n")
    for one in (first, second):
        said = one.communicate(timeout=PATIENCE)[0]
        assert one.returncode == 0, said
    assert log.read_text().split() == ["venv", "pip", "pip"]
    assert make(checkout, makes).communicate(timeout=PATIENCE)[0] == "make: '.venv/ready' is up to date.\n"


def test_a_python_that_is_too_old_is_named_before_anything_is_made_with_it(
    checkout: Path, makes: list[subprocess.Popen[str]]
) -> None:
    refused = make(checkout, makes, old=1)
    said = refused.communicate(timeout=PATIENCE)[0]
    assert refused.returncode == 2
    assert f"highlanderd needs Python 3.11 or newer, and {checkout}/python3.10 is not: install it, or name" in said
    assert not (checkout / ".venv").exists()

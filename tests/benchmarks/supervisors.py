"""Supervisors of one host, fetched from PyPI: they keep programs running, and know of no other host."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a supervisor is fetched, told what to run, started and asked. ``{home}`` is its directory."""

    packages: tuple[str, ...]
    settings: str
    program: str
    """What its settings say of one program, by its ``{number}``: the ``{command}``, and the ``{log}`` of its output."""
    start: str
    """The command, with ``{file}`` for the settings."""
    status: str
    """The command that prints the state of all programs."""


SUPERVISORD = Recipe(
    ("supervisor", "setuptools<80"),
    """
[supervisord]
nodaemon=true
logfile={home}/supervisord.log
pidfile={home}/pid
user=root
[unix_http_server]
file={home}/socket
[supervisorctl]
serverurl=unix://{home}/socket
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
""",
    "[program:p{number}]\ncommand={command}\nstdout_logfile={log}\nstdout_logfile_maxbytes=0\n",
    "supervisord -c {file}",
    "supervisorctl -c {file} status",
)
CIRCUS = Recipe(
    ("circus",),
    "[circus]\nendpoint = ipc://{home}/endpoint\npubsub_endpoint = ipc://{home}/pubsub\nstatsd = False\n",
    "[watcher:p{number}]\ncmd = {command}\n",
    "circusd {file}",
    "circusctl --endpoint ipc://{home}/endpoint status",
)


def fetched(package: str, *further: str) -> Path | None:
    """Return where the commands of a package are, fetched from PyPI if it can be; None where it cannot."""
    place = Path(tempfile.gettempdir()) / f"highlander-benchmark-{package}"
    if not (place / "fetched").exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
            install = [str(place / "bin/pip"), "install", "--quiet", "--quiet", package, *further]
            subprocess.run(install, check=True, timeout=180)
        except (OSError, subprocess.SubprocessError):
            return None
        (place / "fetched").touch()
    return place / "bin"


@dataclass(frozen=True, slots=True)
class Supervisor:
    """One that runs: its process, and the command that prints the state of all programs."""

    process: subprocess.Popen[bytes]
    status: Sequence[str]


@contextmanager
def _supervised(
    recipe: Recipe, home: Path, command: Sequence[str], count: int = 1, log: str = "NONE"
) -> Iterator[Supervisor | None]:
    """Run a supervisor with so many programs of one command; None where it cannot be fetched."""
    place, file = fetched(*recipe.packages), home / "settings"
    if place is None:
        yield None
        return
    words = " ".join(command).replace("%", "%%")
    programs = (recipe.program.format(number=number, command=words, log=log) for number in range(count))
    file.write_text(recipe.settings.format(home=home) + "".join(programs))
    start, status = (
        [str(place / program), *arguments]
        for program, *arguments in (line.format(home=home, file=file).split() for line in (recipe.start, recipe.status))
    )
    with _running(start, home) as process:
        yield Supervisor(process, status)


supervisord = partial(_supervised, SUPERVISORD)
circus = partial(_supervised, CIRCUS)


def fetch() -> None:
    """Fetch both, so that no measurement has to."""
    for recipe in (SUPERVISORD, CIRCUS):
        fetched(*recipe.packages)


@contextmanager
def _running(command: Sequence[str], home: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (home / "said").open("ab") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=home)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


SUPERVISORS = {"supervisord": supervisord, "circus": circus}

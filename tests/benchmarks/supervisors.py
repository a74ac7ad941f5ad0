"""Supervisors of one host, fetched from PyPI: they keep programs running, and know of no other host."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SUPERVISORD = """
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
"""
CIRCUS = "[circus]\nendpoint = ipc://{home}/endpoint\npubsub_endpoint = ipc://{home}/pubsub\nstatsd = False\n"


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
def supervisord(home: Path, command: Sequence[str], count: int) -> Iterator[Supervisor | None]:
    """Run supervisord with so many programs of one command; None where it cannot be fetched."""
    place, settings = fetched("supervisor", "setuptools<80"), home / "supervisord.conf"
    if place is None:
        yield None
        return
    words = " ".join(command)
    text = "".join(f"[program:p{number}]\ncommand={words}\nstdout_logfile=NONE\n" for number in range(count))
    settings.write_text(SUPERVISORD.format(home=home) + text)
    status = [str(place / "supervisorctl"), "-c", str(settings), "status"]
    with _running([str(place / "supervisord"), "-c", str(settings)], home) as process:
        yield Supervisor(process, status)


@contextmanager
def circus(home: Path, command: Sequence[str], count: int) -> Iterator[Supervisor | None]:
    """Run circus with so many programs of one command; None where it cannot be fetched."""
    place, settings = fetched("circus"), home / "circus.ini"
    if place is None:
        yield None
        return
    words = " ".join(command)
    text = "".join(f"[watcher:p{number}]\ncmd = {words}\n" for number in range(count))
    settings.write_text(CIRCUS.format(home=home) + text)
    status = [str(place / "circusctl"), "--endpoint", f"ipc://{home}/endpoint", "status"]
    with _running([str(place / "circusd"), str(settings)], home) as process:
        yield Supervisor(process, status)


def fetch() -> None:
    """Fetch both, so that no measurement has to."""
    fetched("supervisor", "setuptools<80")
    fetched("circus")


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

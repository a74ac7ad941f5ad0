"""How fast a child's output reaches a file: through a logger, and through ``cat`` and supervisord in the same run.

A child writes without pause for some seconds, in blocks and by lines; what stands in the file then is counted. The
logger's memory is what no other process shares with it. supervisord is fetched from PyPI if it can be. The figures of
one run compare with each other only. On a busy machine those by CPU time compare better: sessions share processors as
groups (sched(7), autogroup), and a logger is a session of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.processes import children, name_of, node_at

SECONDS = 4.0
BLOCKS = ["dd", "if=/dev/zero", "bs=64k", "status=none"]
LINES = ["yes", "a line of some forty characters, as logs go"]
SUPERVISORD = """
[supervisord]
nodaemon=true
logfile={home}/supervisord.log
pidfile={home}/pid
user=root
[program:flood]
command={command}
stdout_logfile={path}
stdout_logfile_maxbytes=0
"""


def measure(path: Path, writer: int) -> str:
    """Return the rates into ``path`` from its first byte on: by the clock, and by the CPU time that ``writer`` uses."""
    while not path.exists() or not path.stat().st_size:
        time.sleep(0.01)
    begun, used, before = time.monotonic(), cpu(writer), path.stat().st_size
    time.sleep(SECONDS)
    size = (path.stat().st_size - before) / 1e6
    used = max(cpu(writer) - used, 0.01)
    return f"{size / (time.monotonic() - begun):6.0f} MB/s  {size / used:6.0f} MB in a second of its CPU"


def logger(home: Path, command: list[str]) -> str:
    """Return the rates through a logger, and what the logger costs."""
    path = home / "log"
    log = {"files": {"stdout": str(path)}}
    with node_at(home) as node:
        node.spawn(*command, log=log)
        node.expect("Started")
        (pid,) = [pid for pid in children(node.pid) if name_of(pid).startswith("log ")]
        before = cpu(node.worker)
        rates = measure(path, pid)
        share = 100 * (cpu(node.worker) - before) / SECONDS
        return f"{rates}  {private(pid)} KiB of its own, the worker {share:.1f} % of a CPU"


def private(pid: int) -> int:
    """Return the private memory of a process in KiB."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_"))


def cpu(pid: int) -> float:
    """Return the seconds of CPU that a process has used since it was started."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def cat(home: Path, command: list[str]) -> str:
    """Return the rates through ``cat``."""
    path = home / "log"
    with path.open("wb") as file:
        source = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        drain = subprocess.Popen(["cat"], stdin=source.stdout, stdout=file, start_new_session=True)
        try:
            return measure(path, drain.pid)
        finally:
            for process in (source, drain):
                process.kill()
                process.wait()


def supervisord(home: Path, command: list[str]) -> str:
    """Return the rates through supervisord; its own start is not counted."""
    environment = Path(tempfile.gettempdir()) / "highlander-benchmark-supervisor"
    if not (environment / "bin/supervisord").exists():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        install = [str(environment / "bin/pip"), "install", "--quiet", "supervisor", "setuptools<80"]
        subprocess.run(install, check=True)
    path, settings = home / "log", home / "supervisord.conf"
    settings.write_text(SUPERVISORD.format(home=home, path=path, command=" ".join(command).replace("%", "%%")))
    with subprocess.Popen(
        [str(environment / "bin/supervisord"), "-c", str(settings)], stdout=subprocess.DEVNULL
    ) as one:
        try:
            return measure(path, one.pid)
        finally:
            one.terminate()


def main() -> None:
    """Print a row for each kind of output and each way to a file."""
    for kind, command in (("blocks of 64 KiB", BLOCKS), ("lines", LINES)):
        for way in (logger, cat, supervisord):
            with tempfile.TemporaryDirectory(prefix="hl-output-") as home:
                try:
                    said = way(Path(home), command)
                except (OSError, subprocess.SubprocessError) as error:
                    said = f"not measured: {error}"
                print(f"{kind:17} {way.__name__:12} {said}", flush=True)


if __name__ == "__main__":
    main()

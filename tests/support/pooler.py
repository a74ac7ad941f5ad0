"""pgbouncer in the path: ``with pooler(database, directory, "transaction") as dsn``; skipped where there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.support.ports import reserved_port
from tests.support.postgres import Database

BOUNCER = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
TAKES_OPTIONS = "ignore_startup_parameters = options\n"
"""So set up it lets our sessions in, and drops the settings that they bring."""


@contextmanager
def pooler(database: Database, directory: Path, mode: str, options: str = TAKES_OPTIONS) -> Iterator[str]:
    """Run it, with its settings in a directory that every user may pass; gives the DSN that leads through it.

    It listens a moment later.
    """
    if not Path(BOUNCER).exists():
        pytest.skip("pgbouncer is not installed")
    port, target = reserved_port(), conninfo_to_dict(database.dsn)
    settings = directory / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\n{database.name} = host={target['host']} port={target['port']} user={database.role}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\npool_mode = {mode}\n"
        f"{options}logfile =\nunix_socket_dir =\n"
    )
    command = [BOUNCER, "-q", *(["-u", "nobody"] if os.geteuid() == 0 else []), str(settings)]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield make_conninfo(database.dsn, port=port)
    finally:
        running.terminate()
        running.wait(60)

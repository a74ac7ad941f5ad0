"""A test's child that keeps the journal, and is asked whether it is ready and well: by HTTP on PORT, and by sd_notify.

Executed by path with ``-I -S``. Files say how it is: while JOURNAL.unready exists it is not ready, and while
JOURNAL.hangs.NODE exists it does nothing any more on that node but accept connections. For SLOW seconds from its start
it is not ready either, and notes in JOURNAL.early that a request for its work came. It answers with its
epoch. With DOOR=1 it listens only while it is ready and well.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from journal_child import ALIVE_EVERY, JOURNAL, WHO, begin, tell


def is_there(what: str) -> bool:
    """Return whether a file says so."""
    return Path(f"{JOURNAL}.{what}").exists()


def say(words: str) -> None:
    """Tell the service manager, if there is one."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(words.encode(), "\0" + address[1:])


def answer(connection: socket.socket) -> None:
    """Answer a request; a hanging program holds it open instead."""
    if is_there(f"hangs.{WHO[3]}"):
        held.append(connection)
        return
    slow = time.monotonic() < began + float(os.environ.get("SLOW", "0"))
    if connection.recv(4096).startswith(b"GET /work") and slow:
        Path(f"{JOURNAL}.early").touch()
    status = "503 Service Unavailable" if slow or is_there("unready") else "200 OK"
    connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(WHO[2])}\r\n\r\n{WHO[2]}".encode())
    connection.close()


def listening() -> socket.socket | None:
    """Return the port, open or opened now; None while it is to be shut."""
    if "DOOR" in os.environ and (is_there("unready") or is_there(f"hangs.{WHO[3]}")):
        if server is not None:
            server.close()
        return None
    return server if server is not None else socket.create_server(("127.0.0.1", int(os.environ["PORT"])))


began = time.monotonic()
begin()
held: list[socket.socket] = []
server: socket.socket | None = None
while True:
    tell("alive")
    server = listening()
    if server is None:
        time.sleep(ALIVE_EVERY)
    elif select.select([server], [], [], ALIVE_EVERY)[0]:
        answer(server.accept()[0])
    if not is_there(f"hangs.{WHO[3]}"):
        say("WATCHDOG=1" if is_there("unready") else "READY=1\nWATCHDOG=1\nSTATUS=serving")

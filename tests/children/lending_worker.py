"""A worker that says nothing itself: it lends its channel to a test, which speaks to the guardian in its place.

Executed by a real guardian: ``lending_worker.py SOCKET --worker FD``. It ends when the test closes the socket.
"""

from __future__ import annotations

import socket
import sys

if __name__ == "__main__":
    path, _, fd = sys.argv[1:]
    with socket.socket(socket.AF_UNIX) as test:
        test.connect(path)
        socket.send_fds(test, [b"!"], [int(fd)])
        test.recv(1)

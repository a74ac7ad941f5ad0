"""A child that hangs before its program is executed: it hides nothing, and dies with its keeper."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress

from tests.support.processes import PATIENCE, ROOT, children, gone
from tests.support.wait import wait_for

KEEPER = """
import os, resource, sys, time
sys.path.insert(0, sys.argv[1])
from highlanderd.system import linux
from highlanderd.guardian.launch import launch

class Hanging(dict):  # as a directory on a server that is gone
    def __getitem__(self, name):
        if name == "cwd":
            os.write(1, b"hangs\\n")
            time.sleep(1000)
        return dict.__getitem__(self, name)

spec = Hanging(umask=0, uid=None, gid=None, groups=None)
null, me = os.open("/dev/null", os.O_RDWR), os.getpid()
held, answer = os.pipe()
nofile = resource.getrlimit(resource.RLIMIT_NOFILE)
linux.fork(lambda: launch(spec, (null, os.dup(1), os.dup(2)), answer, me, None, nofile))
time.sleep(1000)
"""


def test_a_child_that_hangs_on_its_directory_holds_nothing_of_its_keepers_and_dies_with_it() -> None:
    with subprocess.Popen([sys.executable, "-c", KEEPER, str(ROOT)], stdout=subprocess.PIPE) as keeper:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == b"hangs\n"
        (child,) = children(keeper.pid)
        held = sorted(map(int, os.listdir(f"/proc/{child}/fd")))  # noqa: PTH208
        keeper.kill()
        keeper.wait(PATIENCE)
        try:
            wait_for(lambda: gone(child), what="it has died with its keeper")
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
    assert len(held) == 4, "its three standard streams, and the pipe to say what went wrong"

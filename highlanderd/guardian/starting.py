"""What a process needs before it can be a guardian: descriptors, limits, and no leftovers of the former daemon."""

from __future__ import annotations

import os
import resource

from highlanderd import descriptors
from highlanderd.guardian import cgroup
from highlanderd.system import linux

SWEEP_WITHIN = 5.0  # seconds; SIGKILL takes milliseconds


def fill_standard_descriptors(*, keep_input: bool) -> None:
    """Open all three: else a channel could get the number of a child's stdout or stderr. Make stdin /dev/null.

    With ``keep_input`` stdin stays what it is: a child shall read it.
    """
    descriptors.open_closed()
    if not keep_input:
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        os.close(null)


def raise_file_limit() -> tuple[int, int]:
    """Let guardian and worker open as many files as the system allows; return the limits that children shall have."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    return limits


def new_instance() -> str:
    """Return a random UUID (RFC 9562, version 4); the module of that name would cost memory in every keeper."""
    data = bytearray(os.urandom(16))
    data[6], data[8] = data[6] & 0x0F | 0x40, data[8] & 0x3F | 0x80
    text = data.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def succeed(state_dir: str, instance: str) -> bool:
    """Kill what the former daemon has left in its cgroups, and take its place; False when something there lives on."""
    try:
        left = cgroup.succeed(f"{state_dir}/instance", instance, SWEEP_WITHIN)
    except OSError as error:
        linux.log(
            f"cannot write {state_dir}/instance: {error.strerror}; mend that, or name another [daemon] state_dir",
            linux.ERROR,
        )
        return False
    if left:
        linux.log(
            f"processes of the former daemon cannot be killed, see {left[0]}/cgroup.procs; not starting while they live"
        )
    return not left

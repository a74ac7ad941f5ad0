"""A process without capabilities, in a sandbox that refuses one system call: it gets confined as a worker is."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

from highlanderd.guardian.worker import confine

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
REFUSED, ALLOWED = 0x50000, 0x7FFF0000
NOBODY = 65534


def refuse(call: int) -> None:
    """Have the kernel answer this system call with EPERM from now on."""
    steps = (
        (LOAD, 0, 0, 0),
        (JUMP_IF_EQUAL, 0, 1, call),
        (RETURN, 0, 0, REFUSED | errno.EPERM),
        (RETURN, 0, 0, ALLOWED),
    )
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    described = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, described, 0, 0):
        raise OSError(ctypes.get_errno(), "no filter for system calls")


def main() -> None:
    if os.geteuid() == 0:
        os.setresuid(NOBODY, NOBODY, NOBODY)
    refuse(int(sys.argv[1]))
    confine()
    print("confined")


if __name__ == "__main__":
    main()

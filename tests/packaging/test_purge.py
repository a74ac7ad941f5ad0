"""A purge deletes the account that the package made, and nobody else's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "packaging/scripts/deb-postrm"
STUBS = """
rm() { :; }
systemctl() { :; }
userdel() { echo "userdel $*" >&3; }
groupdel() { echo "groupdel $*" >&3; }
getent() { [ "$1" = group ] && echo "highlander:x:998:" && return; [ -n "$ACCOUNT" ] && echo "$ACCOUNT"; }
exec 3>&1
set -- purge
. "$SCRIPT"
"""
"""What the script calls, as functions of the shell: nothing of this machine is touched."""


@pytest.mark.parametrize(
    ("account", "deleted"),
    [
        ("highlander:x:998:998:highlanderd:/var/lib/highlander:/usr/sbin/nologin", True),
        ("highlander:x:1000:1000:a person:/home/highlander:/bin/bash", False),
        ("highlander:x:1000:1000:a person:/var/lib/highlander:/bin/bash", False),
        ("highlander:x:998:998:another daemon:/srv/highlander:/usr/sbin/nologin", False),
        ("", False),
    ],
)
def test_a_purge_deletes_the_packages_account_only(account: str, deleted: bool) -> None:
    environment = {"PATH": "/usr/bin:/bin", "ACCOUNT": account, "SCRIPT": str(SCRIPT)}
    done = subprocess.run(["sh", "-c", STUBS], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == ("userdel highlander\ngroupdel highlander\n" if deleted else "")

"""What a start of the daemon does not wait for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CERTIFICATE = """-----BEGIN CERTIFICATE-----
MIIBODCB66ADAgECAhQ4q+jgZDBq70dIzS0d681bHhmXkjAFBgMrZXAwETEPMA0G
A1UEAwwGbm9ib2R5MCAXDTI2MTEyODIyMDA0MVoYDzIxMjYxMTA0MjIwMDQxWjAR
MQ8wDQYDVQQDDAZub2JvZHkwKjAFBgMrZXADIQAP7caYmwggXiw4bshcdbG5w+MU
Tz4gkux1FyRRAFo1OKNTMFEwHQYDVR0OBBYEFE7SUbbjopLJG7WLVQ3Z7fOOqYGu
MB8GA1UdIwQYMBaAFE7SUbbjopLJG7WLVQ3Z7fOOqYGuMA8GA1UdEwEB/wQFMAMB
Af8wBQYDK2VwA0EAHnMyJ1ESxzInxIsV449swuNFfWe6Ig5a4fhGy8fIjmxSXfNK
pxVRY0xdYOuAbzO+YPPiAZQg2kaFSd66FnmkDA==
-----END CERTIFICATE-----
"""
"""Of nobody: it only has to be one that can be loaded."""
IMPORT = "from aiohttp import connector; print(len(connector._SSL_CONTEXT_VERIFIED.get_ca_certs()))"
AS_AT_A_START = f"""
import os
from highlanderd.listeners.library import CERTIFICATES, without_certificates
before = os.environ[CERTIFICATES]
with without_certificates():
    {IMPORT}
assert os.environ[CERTIFICATES] == before
"""


@pytest.mark.parametrize(("script", "loaded"), [(IMPORT, 1), (AS_AT_A_START, 0)])
def test_no_certificates_are_loaded_for_a_client_that_is_not_used(script: str, loaded: int, tmp_path: Path) -> None:
    file = tmp_path / "certificates"
    file.write_text(CERTIFICATE)
    environment = {**os.environ, "SSL_CERT_FILE": str(file), "SSL_CERT_DIR": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert int(ran.stdout) == loaded


INTERRUPTED = """
import sys

class Interrupt:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "argparse":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt)
from highlanderd.__main__ import main
main()
"""


def test_an_interrupt_while_the_rest_is_imported_ends_the_command_with_130_and_without_a_traceback() -> None:
    ran = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "")


AT_A_START = "import sys, highlanderd.worker.startup; print(*sorted({'aiohttp', 'attr', 'yarl'} & set(sys.modules)))"


def test_programs_do_not_wait_for_what_the_listeners_are_made_of() -> None:
    ran = subprocess.run([sys.executable, "-c", AT_A_START], capture_output=True, text=True, check=True)
    assert ran.stdout == "\n"


def test_the_guardian_begins_while_a_worker_s_modules_are_imported() -> None:
    words = "import sys, highlanderd.worker.startup; sys.exit('highlanderd.worker.daemon' in sys.modules)"
    subprocess.run([sys.executable, "-c", words], check=True)

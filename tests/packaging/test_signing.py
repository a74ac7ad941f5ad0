"""Signing as docs/how-to/sign-packages.md tells, with a key that is thrown away."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from highlanderd import __version__
from tests.support.packages import made, tool


class Signer:
    """Somebody with a key, and with a database of the keys that rpm trusts."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.home.mkdir(mode=0o700)
        self.does(
            "gpg", "--batch", "--quick-gen-key", "--passphrase", "", "Throw Away <key@highlanderd.invalid>", "rsa3072"
        )
        listed = self.does("gpg", "--with-colons", "--list-keys")
        self.key = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))

    def runs(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command with this key at hand."""
        environment = {**os.environ, "GNUPGHOME": str(self.home), "HOME": str(self.home)}
        told = [tool(str(command[0])), *map(str, command[1:])]
        return subprocess.run(
            told, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def does(self, *command: str | Path) -> str:
        """Run one that has to succeed."""
        done = self.runs(*command)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def close(self) -> None:
        """End the agent that gpg has started."""
        self.runs("gpgconf", "--kill", "all")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Packages that may be changed."""
    directory = tmp_path / "dist"
    directory.mkdir()
    for pattern in (f"highlander-{__version__}-*.x86_64.rpm", f"highlander_{__version__}-*_amd64.deb"):
        shutil.copy(made(pattern), directory)
    return directory


def test_a_signed_rpm_is_accepted_and_a_changed_one_is_not(release: Path, tmp_path: Path) -> None:
    for name in ("gpg", "rpmsign", "rpmkeys"):
        tool(name)
    [rpm] = release.glob("*.rpm")
    signer = Signer(tmp_path / "gnupg")
    try:
        keys = ("--dbpath", str(tmp_path / "rpmdb"))
        assert "signatures" not in signer.does("rpmkeys", *keys, "--checksig", rpm)
        program = f"__gpg {tool('gpg')}"
        signer.does("rpmsign", "--define", program, "--define", f"_gpg_name {signer.key}", "--addsign", rpm)
        assert signer.runs("rpmkeys", *keys, "--checksig", rpm).returncode != 0  # nobody trusts the key yet
        (tmp_path / "key.asc").write_text(signer.does("gpg", "--armor", "--export", signer.key))
        signer.does("rpmkeys", *keys, "--import", tmp_path / "key.asc")
        assert signer.does("rpmkeys", *keys, "--checksig", rpm).strip().endswith("digests signatures OK")
        changed = bytearray(rpm.read_bytes())
        changed[-1000] ^= 1
        rpm.write_bytes(changed)
        assert signer.runs("rpmkeys", *keys, "--checksig", rpm).returncode != 0
    finally:
        signer.close()


def test_the_digests_are_signed_for_everything_else(release: Path, tmp_path: Path) -> None:
    tool("gpg")
    signer = Signer(tmp_path / "gnupg")
    try:
        sums = release / "SHA256SUMS"
        lines = [
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(release.iterdir())
        ]
        sums.write_text("".join(lines))
        signer.does("gpg", "--local-user", signer.key, "--armor", "--detach-sign", sums)
        assert "Good signature" in signer.does("gpg", "--verify", f"{sums}.asc", sums)
        sums.write_text(sums.read_text().replace("  highlander", "  Highlander"))
        assert "BAD signature" in signer.runs("gpg", "--verify", f"{sums}.asc", sums).stdout
    finally:
        signer.close()

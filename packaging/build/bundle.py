"""The private site directory of the packages: every library, for each CPython that may run it.

The wheels of all supported versions are laid one over the other. That is sound because an extension module carries its
ABI in its name and everything else is the same file; what differs in spite of that fails the build. Nothing is
compiled here: what is in the wheels is what is shipped, less what no running program needs.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from email import message_from_string
from pathlib import Path
from typing import Final, NamedTuple

PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
PLATFORM: Final = "{machine}-manylinux_2_28"  # glibc 2.28: Debian 11, RHEL 8, and all that came later
MACHINES: Final[Mapping[str, str]] = {"amd64": "x86_64", "arm64": "aarch64"}  # as Debian calls it: as the kernel does

TOLD_BY_INSTALLERS: Final = re.compile(r"\.dist-info/(RECORD|WHEEL|INSTALLER|REQUESTED|direct_url\.json|sboms/.*)$")
"""Metadata about one installation of one wheel: untrue in this directory, and all that differs between versions."""
UNUSED: Final = re.compile(
    r"^bin/|\.(pyx|pxd|pxi|pyi|c|h|hash)$|/_testcapi\.|\.dist-info/(entry_points|top_level)\.txt$",
)
"""What is there for compilers, type checkers, other people's tests and other people's commands."""


class Library(NamedTuple):
    """What its metadata says of a library: all of it goes into the copyright file."""

    name: str
    version: str
    license: str
    texts: tuple[str, ...]
    """Its licences' files, relative to the site directory."""


SPDX: Final = {"Apache 2.0": "Apache-2.0", "MIT License": "MIT"}  # as some libraries write it


def spdx(library: Library) -> str:
    """Return a library's licence as SPDX writes it."""
    return SPDX.get(library.license, library.license)


def bracketed(library: Library) -> str:
    """Return it so that more can follow: in brackets where that is needed."""
    return f"({spdx(library)})" if re.search(r" (AND|OR) ", spdx(library)) else spdx(library)


class Differing(Exception):
    """A file that two versions of Python want differently: there is no one directory for both."""


def bundle(uv: str, requirements: Path, arch: str, scratch: Path, site: Path) -> tuple[Library, ...]:
    """Fill ``site`` with the locked ``requirements`` for ``arch``.

    Raises Differing, CalledProcessError, and FileNotFoundError without the tool that takes debug symbols out, which are
    most of the size.
    """
    machine, tool = MACHINES[arch], stripper(arch)
    if tool is None:
        raise FileNotFoundError(lacking(arch))
    for python in PYTHONS:
        version = scratch / python
        _install(uv, requirements, python, PLATFORM.format(machine=machine), version)
        lay_over(version, site)
    subprocess.run([tool, "--strip-unneeded", *map(str, sorted(site.rglob("*.so")))], check=True)
    return libraries(site)


def _install(uv: str, requirements: Path, python: str, tag: str, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    command = [uv, "pip", "install", "--quiet", "--target", str(target), "--link-mode", "copy", "--no-deps"]
    command += ["--python-version", python, "--python-platform", tag]
    command += ["--only-binary", ":all:", "--require-hashes", "--requirement", str(requirements)]
    subprocess.run(command, check=True)


def lay_over(version: Path, site: Path) -> None:
    """Add what is installed in ``version`` to ``site``. Raises Differing."""
    for path in sorted(version.rglob("*")):
        called = path.relative_to(version).as_posix()
        if not path.is_file() or TOLD_BY_INSTALLERS.search(called) or UNUSED.search(called) or called.startswith("."):
            continue
        target, data = site / called, path.read_bytes()
        if called.endswith(".py"):
            data = re.sub(rb"^#!.*", b"", data)  # a module of a library is no script
        if target.exists() and target.read_bytes() != data:
            raise Differing(f"{called} is another file for another Python; the packages cannot share one directory")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def stripper(arch: str) -> str | None:
    """Return the program that takes debug symbols out of modules for ``arch``; None where there is none."""
    machine = MACHINES[arch]
    own = shutil.which("strip") if machine == platform.machine() else None
    return shutil.which(f"{machine}-linux-gnu-strip") or own


def lacking(arch: str) -> str:
    """Return a sentence that says which program is missing for ``arch``, and what brings it."""
    machine = MACHINES[arch]
    return f"{machine}-linux-gnu-strip is not there; install binutils-{machine.replace('_', '-')}-linux-gnu"


def libraries(site: Path) -> tuple[Library, ...]:
    """Return what is in a site directory, by name."""
    return tuple(_library(site, metadata) for metadata in sorted(site.glob("*.dist-info/METADATA")))


def _library(site: Path, metadata: Path) -> Library:
    told = message_from_string(metadata.read_text("utf-8"))
    classified = [
        line.rpartition(" :: ")[2] for line in told.get_all("Classifier", []) if line.startswith("License ::")
    ]
    texts = [path for path in metadata.parent.rglob("*") if re.match(r"(?i)(licen[cs]e|notice|copying)", path.name)]
    return Library(
        told["Name"],
        told["Version"],
        told["License-Expression"] or told["License"] or ", ".join(classified),
        tuple(sorted(path.relative_to(site).as_posix() for path in texts if path.is_file())),
    )

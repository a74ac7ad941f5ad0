"""Makes the packages: one tree for each architecture, and from it a .deb and an .rpm; wheel and sdist for pip.

The same sources give the same bytes, every time: the times of all files are that of the last commit, or
SOURCE_DATE_EPOCH. ``build/packages`` is where it works, ``dist`` where the results go. The network is asked for the
locked wheels only, by uv, which keeps them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from string import Template
from typing import Final

import completions
import manual
import sbom
from bundle import MACHINES, Library, bracketed, bundle, lacking, spdx, stripper
from changes import debian, entries, system_version

from highlanderd import __version__
from highlanderd.config import json_schema

HERE: Final = Path(__file__).resolve().parents[1]
ROOT: Final = HERE.parent
PACKAGER: Final = os.environ.get("PACKAGER") or "The highlanderd contributors <packages@highlanderd.invalid>"

INSTALLED: Final = {
    "files/launcher": ("usr/bin/highlanderd", 0o755),
    "files/highlanderd.service": ("usr/lib/systemd/system/highlanderd.service", 0o644),
    "files/highlander.sysusers": ("usr/lib/sysusers.d/highlander.conf", 0o644),
    "files/highlander.toml": ("etc/highlander.toml", 0o640),
    "files/hardening/root.conf": ("usr/share/highlander/hardening/root.conf", 0o644),
    "files/hardening/unprivileged.conf": ("usr/share/highlander/hardening/unprivileged.conf", 0o644),
    "monitoring/alerts.yml": ("usr/share/highlander/prometheus/alerts.yml", 0o644),
    "monitoring/dashboard.json": ("usr/share/highlander/grafana/dashboard.json", 0o644),
    "files/lintian-overrides": ("usr/share/lintian/overrides/highlander", 0o644),
}
EXAMPLES: Final = ("celery-beat.toml", "outbox-relay.toml", "telegram-poller.toml")


def main() -> int:
    """Build for each architecture that is asked for, and print what was made."""
    parser = argparse.ArgumentParser(description="Make the packages of highlanderd.")
    parser.add_argument("--arch", action="append", choices=tuple(MACHINES), help="default: all that can be built here")
    parser.add_argument("--tools", type=Path, default=ROOT / ".make/packages/bin", help="where nfpm and uv are")
    parser.add_argument("--to", type=Path, default=ROOT / "dist", help="default: dist")
    arguments = parser.parse_args()
    os.umask(0o022)  # what is not said otherwise is for everybody to read
    arguments.to.mkdir(parents=True, exist_ok=True)
    wanted = arguments.arch or list(MACHINES)
    built = [arch for arch in wanted if stripper(arch)]
    for arch in wanted:
        if arch not in built:
            print(f"no packages for {arch}: {lacking(arch)}", file=sys.stderr)
    if (arguments.arch and built != wanted) or not built:
        return 1
    made = [path for arch in built for path in packages(arch, arguments.tools, arguments.to)]
    made += distributions(arguments.to)
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in made)
    (arguments.to / "SHA256SUMS").write_text(sums, "utf-8")
    print(sums, end="")
    return 0


def packages(arch: str, tools: Path, to: Path) -> Iterator[Path]:
    """Make both packages for ``arch``, and the bill of what is in them."""
    work = ROOT / "build/packages" / arch
    shutil.rmtree(work, ignore_errors=True)
    stage = work / "stage"
    site = stage / "usr/lib/highlander"
    uv = str((tools / "uv").absolute())
    libraries = bundle(uv, HERE / "requirements/package.txt", arch, work / "wheels", site)
    epoch = built_at()
    stage_product(site)
    stage_files(stage, libraries, epoch)
    date_all(stage, epoch)
    variables = {
        "ARCH": arch,
        "VERSION": system_version(__version__),
        "PACKAGER": PACKAGER,
        "LICENSE": " AND ".join(sorted({"MIT", *map(bracketed, libraries)})),
        "MTIME": datetime.fromtimestamp(epoch, UTC).isoformat(),
    }
    template = Template((HERE / "nfpm.yaml").read_text("utf-8"))
    nfpm = str((tools / "nfpm").absolute())
    # For Debian nfpm takes each further line of an item for an item below it, so it gets no changelog to write.
    for kind, log in (("deb", ""), ("rpm", "changelog: changelog.yaml")):
        description = work / f"nfpm-{kind}.yaml"
        description.write_text(template.substitute(variables, CHANGELOG=log), "utf-8")
        command = [nfpm, "package", "--config", str(description), "--packager", kind, "--target", str(work)]
        subprocess.run(command, cwd=stage, check=True, stdout=subprocess.DEVNULL)
    for path in sorted(work.glob("*.[dr][ep][bm]")):
        yield Path(shutil.copy2(path, to / path.name))
    bill = to / f"highlander-{__version__}-{arch}.cdx.json"
    built = datetime.fromtimestamp(epoch, UTC)
    bill.write_text(sbom.text(sbom.document(__version__, arch, libraries, work / "wheels", PACKAGER, built)), "utf-8")
    yield bill


def distributions(to: Path) -> list[Path]:
    """Make the wheel and the sdist, for pip."""
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(to.absolute())]
    told = {**os.environ, "SOURCE_DATE_EPOCH": str(built_at())}
    subprocess.run(command, cwd=ROOT, env=told, check=True, stdout=subprocess.DEVNULL)
    return sorted(to.glob(f"highlanderd-{__version__}*"))


def built_at() -> int:
    """Return the time that all files get, in seconds since 1970: SOURCE_DATE_EPOCH, or that of the last commit."""
    told = os.environ.get("SOURCE_DATE_EPOCH")
    if told:
        return int(told)
    log = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return int(log.stdout)


def stage_product(site: Path) -> None:
    """Copy our own package, as the wheel has it."""
    for path in sorted((ROOT / "highlanderd").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            write(site / path.relative_to(ROOT), path.read_bytes(), 0o644)


def stage_files(stage: Path, libraries: tuple[Library, ...], epoch: int) -> None:
    """Write all that is neither ours to import nor a library's."""
    for source, (target, mode) in INSTALLED.items():
        write(stage / target, (HERE / source).read_bytes(), mode)
    share = stage / "usr/share"
    for example in EXAMPLES:
        write(share / "doc/highlander/examples" / example, (ROOT / "conf.d" / example).read_bytes(), 0o644)
    write(share / "doc/highlander/copyright", copyright_file(libraries).encode(), 0o644)
    write(share / "highlander/schema.json", json_schema.text().encode(), 0o644)
    for name, text in manual.pages(datetime.fromtimestamp(epoch, UTC)).items():
        write(share / f"man/man{name[-1]}" / f"{name}.gz", packed(text.encode()), 0o644)
    for name, text in completions.files().items():
        write(share / name, text.encode(), 0o644)
    now = datetime.fromtimestamp(epoch, UTC)
    log = entries((ROOT / "docs/changelog.md").read_text("utf-8"), now, PACKAGER)
    write(stage / "changelog.yaml", json.dumps(log).encode(), 0o644)  # JSON is YAML
    write(share / "doc/highlander/changelog.Debian.gz", packed(debian(log).encode()), 0o644)
    shutil.copytree(HERE / "scripts", stage / "scripts")


def write(path: Path, data: bytes, mode: int) -> None:
    """Write a file with all directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


def packed(data: bytes) -> bytes:
    """Compress without a name or a time."""
    return subprocess.run(["gzip", "-9n"], input=data, stdout=subprocess.PIPE, check=True).stdout


def copyright_file(libraries: tuple[Library, ...]) -> str:
    """Return our own licence, and where those of the libraries are."""
    lines = [(ROOT / "LICENSE").read_text("utf-8"), "", "/usr/lib/highlander also holds these libraries:", ""]
    for library in libraries:
        lines.append(f"{library.name} {library.version}: {spdx(library)}")
        lines += [f"    /usr/lib/highlander/{text}" for text in library.texts]
    lines += ["", "On Debian the texts of Apache-2.0 and LGPL-3.0 are also in /usr/share/common-licenses."]
    return "\n".join(lines) + "\n"


def date_all(stage: Path, epoch: int) -> None:
    """Give every file and directory the same time."""
    for path in [stage, *stage.rglob("*")]:
        os.utime(path, (epoch, epoch), follow_symlinks=False)


if __name__ == "__main__":
    sys.exit(main())

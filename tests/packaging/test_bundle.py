"""One directory serves several versions of Python, or the build fails."""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

PACKAGING = Path(__file__).parents[2] / "packaging"


@pytest.fixture
def bundle(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(PACKAGING / "build")
    return importlib.import_module("bundle")


def version(root: Path, python: str, **files: str) -> Path:
    """Return what was installed for one version: files by name, with __ for a directory."""
    for called, text in {"lib__mod": "x = 1\n", **files}.items():
        path = root / python / (called.replace("__", "/") + ("" if "." in called else ".py"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root / python


def test_extension_modules_of_all_versions_lie_side_by_side(bundle: ModuleType, tmp_path: Path) -> None:
    site = tmp_path / "site"
    for minor in ("11", "12"):
        module = f"lib__fast.cpython-3{minor}-x86_64-linux-gnu.so"
        bundle.lay_over(version(tmp_path, f"3.{minor}", **{module: minor}), site)
    assert sorted(path.name for path in (site / "lib").iterdir()) == [
        "fast.cpython-311-x86_64-linux-gnu.so",
        "fast.cpython-312-x86_64-linux-gnu.so",
        "mod.py",
    ]


def test_a_module_that_two_versions_want_differently_fails_the_build(bundle: ModuleType, tmp_path: Path) -> None:
    bundle.lay_over(version(tmp_path, "3.11"), tmp_path / "site")
    with pytest.raises(bundle.Differing, match=r"lib/mod\.py is another file for another Python"):
        bundle.lay_over(version(tmp_path, "3.12", lib__mod="x = 2\n"), tmp_path / "site")


def test_what_one_installation_tells_of_itself_is_left_out(bundle: ModuleType, tmp_path: Path) -> None:
    told = {f"lib-1.0.dist-info__{name}": "" for name in ("RECORD", "WHEEL")}
    bundle.lay_over(version(tmp_path, "3.11", **told, **{"bin__lib.sh": ""}), tmp_path / "site")
    assert [path.name for path in (tmp_path / "site").rglob("*") if path.is_file()] == ["mod.py"]


def test_a_module_is_no_script(bundle: ModuleType, tmp_path: Path) -> None:
    bundle.lay_over(version(tmp_path, "3.11", lib__mod="#!/usr/bin/env python\nx = 1\n"), tmp_path / "site")
    assert (tmp_path / "site/lib/mod.py").read_text() == "\nx = 1\n"


def test_this_machine_s_own_tool_will_do_for_its_own_architecture_alone(
    bundle: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "strip"
    own.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = {machine: bundle.stripper(arch) for arch, machine in bundle.MACHINES.items()}
    assert found == {machine: str(own) if machine == platform.machine() else None for machine in found}


@pytest.mark.parametrize("asked", [[], ["--arch", "arm64"]])
def test_what_no_package_can_be_built_without_is_named_in_a_sentence(asked: list[str], tmp_path: Path) -> None:
    command = [sys.executable, str(PACKAGING / "build/build.py"), "--to", str(tmp_path), *asked]
    done = subprocess.run(command, env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 1
    told = "no packages for arm64: aarch64-linux-gnu-strip is not there; install binutils-aarch64-linux-gnu"
    assert done.stderr.splitlines()[-1] == told
    assert "Traceback" not in done.stderr

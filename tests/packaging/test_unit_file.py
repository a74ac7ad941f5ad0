"""The systemd unit and its two drop-ins, as far as systemd judges them without running."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

FILES = Path(__file__).parents[2] / "packaging/files"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root file system with nothing but the unit."""
    units = tmp_path / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    shutil.copy(FILES / "highlanderd.service", units)
    for program in ("highlanderd", "highlanderctl"):
        path = tmp_path / "usr/bin" / program
        path.parent.mkdir(exist_ok=True)
        path.touch(0o755)
    return tmp_path


def analyze(*arguments: str) -> str:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("needs systemd-analyze")
    told = subprocess.run([tool, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    if int(told.split()[1].partition(".")[0]) < 252:
        pytest.skip("needs systemd-analyze 252, which judges without a running systemd")
    run = subprocess.run([tool, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return run.stdout


def exposure(root: Path) -> float:
    [figure] = re.findall(
        r"Overall exposure level for \S+: ([\d.]+)", analyze(*JUDGE, f"--root={root}", "highlanderd.service")
    )
    return float(figure)


JUDGE = ("security", "--offline=true", "--no-pager")


def test_systemd_has_nothing_to_say_about_the_unit() -> None:
    said = analyze("verify", "--man=no", str(FILES / "highlanderd.service")).splitlines()
    missing = "is not executable: No such file or directory"  # it is not installed here
    assert not [line for line in said if "highlanderd" in line and not line.endswith(missing)]


def test_the_unit_gives_away_less_than_its_peers(root: Path) -> None:
    assert exposure(root) <= 6.5


@pytest.mark.parametrize(("name", "below"), [("root", 3.2), ("unprivileged", 1.5)])
def test_a_drop_in_hardens_the_unit(root: Path, name: str, below: float) -> None:
    drop_ins = root / "etc/systemd/system/highlanderd.service.d"
    drop_ins.mkdir(parents=True)
    shutil.copy(FILES / f"hardening/{name}.conf", drop_ins)
    assert exposure(root) < below


def test_the_unit_says_what_the_daemon_counts_on() -> None:
    lines = (FILES / "highlanderd.service").read_text("utf-8").splitlines()
    assert {
        "Type=notify",
        "NotifyAccess=main",
        "WatchdogSignal=SIGKILL",  # the guardian blocks whatever can be blocked
        "KillMode=mixed",
        "Delegate=yes",
        "RestartPreventExitStatus=78",
    } <= set(lines)


def test_the_unit_that_the_manual_tells_to_write_is_the_one_that_is_shipped() -> None:
    page = (FILES.parents[1] / "docs/how-to/systemd.md").read_text("utf-8")
    [told] = re.findall(r"```ini\n(.*?)```", page, re.DOTALL)
    shipped = (FILES / "highlanderd.service").read_text("utf-8").replace("/usr/bin", "/opt/highlander/bin")
    ours = shipped[: shipped.index("# A connection string")] + shipped[shipped.index("[Install]") :]
    assert told.split("\n") == re.sub(r"^(#|Documentation=).*\n", "", ours, flags=re.MULTILINE).split("\n")

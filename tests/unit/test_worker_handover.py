"""What a worker begins with: the configuration in force, which is loaded again only where it is another one."""

from __future__ import annotations

from pathlib import Path

from highlanderd.config import load
from highlanderd.worker.handover import begin

TEXT = '[postgres]\ndsn = "host=db"\n\n[program.beat]\ncommand = ["true"]\n'


def _written(directory: Path, more: str = "") -> Path:
    path = directory / "highlander.toml"
    path.write_text(TEXT + more)
    return path


def test_the_first_worker_goes_by_what_was_loaded_when_the_daemon_started(tmp_path: Path) -> None:
    path = _written(tmp_path)
    known = load(path, {})
    _written(tmp_path, '[program.later]\ncommand = ["true"]\n')
    assert begin(path, None, {}, known).latest is known


def test_the_next_worker_loads_nothing_that_was_loaded_already(tmp_path: Path) -> None:
    path = _written(tmp_path)
    known = load(path, {})
    handed_over = begin(path, None, {}, known).encode()
    found = begin(path, handed_over, {}, known)
    assert found.base is known
    assert found.latest is known


def test_the_next_worker_goes_by_a_reload_and_not_by_what_was_loaded_before(tmp_path: Path) -> None:
    path = _written(tmp_path)
    known = load(path, {})
    reloaded = load(_written(tmp_path, '[program.later]\ncommand = ["true"]\n'), {})
    handed_over = begin(path, None, {}, reloaded).encode()
    assert set(begin(path, handed_over, {}, known).programs) == {"beat", "later"}

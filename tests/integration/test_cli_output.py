"""Output that nobody takes: a reader that is gone, a disk that is full. A sentence at most, and no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import highlanderd
from tests.support.memory_node import MemoryNode, ended, leading, run, serving

DAEMON = f"{sys.executable} -m highlanderd"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--print-json-schema > /dev/full", "highlanderd: cannot write the output: No space left on device\n"),
        ("-c FILE --check > /dev/full", "highlanderd: cannot write the output: No space left on device\n"),
        ("--print-json-schema | head -c 1 > /dev/null", ""),
    ],
)
def test_the_daemons_words_end_quietly(tmp_path: Path, words: str, said: str) -> None:
    file = tmp_path / "h.toml"
    file.write_text('[postgres]\ndsn = "host=db1 user=u dbname=d"\n[program.beat]\ncommand = "/bin/true"\n')
    file.chmod(0o600)
    done = subprocess.run(
        ["sh", "-c", f"{DAEMON} {words.replace('FILE', str(file))}"], capture_output=True, text=True, check=False
    )
    assert done.stderr == said
    assert ("| head" in words) or done.returncode == 1


def test_what_fails_in_a_rehearsal_or_in_the_worker_that_it_becomes_is_not_taken_for_its_output(tmp_path: Path) -> None:
    file = tmp_path / "h.toml"
    file.write_text('[postgres]\ndsn = "host=db1 user=u dbname=d"\n')
    file.chmod(0o600)
    done = highlanderd("-c", file, "--check", "--handover", "99")
    assert done.code == 1
    assert done.err.splitlines()[-1] == "OSError: [Errno 9] Bad file descriptor"


def test_a_full_disk_is_a_sentence_of_the_client(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            ctl = f"{sys.executable} -m highlanderd.ctl --socket {path}"
            done = await ended(["sh", "-c", f"{ctl} status > /dev/full"])
        assert (done.code, done.err) == (1, "highlanderctl: cannot write the output: No space left on device\n")

    run(main)


def test_a_client_whose_standard_output_is_closed_says_what_is_wrong_and_no_traceback(tmp_path: Path) -> None:
    ctl = f"{DAEMON}.ctl --socket {tmp_path}/none status >&-"
    done = subprocess.run(["sh", "-c", ctl], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.startswith("highlanderctl: no daemon is running here: ")

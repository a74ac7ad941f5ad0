"""Claims about the status page in a real browser: its own policy lets its style through, by day and by night."""

from __future__ import annotations

import asyncio
import shutil
import struct
import zlib
from pathlib import Path

import pytest

from tests.integration.test_control_metrics import listening
from tests.support.memory_node import Ended, MemoryNode, ended, leading, run

pytestmark = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium, Debian's package of 300 MB")

TELEPHONE, WALL = "390,844", "1280,900"
DAY, NIGHT = (0xF5, 0xF6, 0xF8), (0x12, 0x16, 0x1C)
"""The grounds of both styles."""


async def browse(address: str, home: Path, *options: str) -> Ended:
    """Have Chromium load the page, and do what ``options`` say."""
    quiet = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    done = await ended(["chromium", *quiet, f"--user-data-dir={home}", *options, f"http://{address}/"], HOME=str(home))
    assert done.code == 0, done.err
    assert "CONSOLE" not in done.err  # where a browser says what a policy has forbidden
    return done


def corner(png: bytes) -> tuple[int, ...]:
    """Return the colour of the pixel in the upper left corner: of the first one, no filter changes the value."""
    at, data = 8, b""
    while at < len(png):
        (size,) = struct.unpack(">I", png[at : at + 4])
        data += png[at + 8 : at + 8 + size] if png[at + 4 : at + 8] == b"IDAT" else b""
        at += size + 12
    return tuple(zlib.decompress(data)[1:4])


@pytest.mark.parametrize("size", [TELEPHONE, WALL])
def test_it_follows_the_colours_of_day_and_night(size: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with listening(MemoryNode(leading("beat"))) as address:
            for ground, options in ((DAY, ()), (NIGHT, ("--blink-settings=preferredColorScheme=0",))):
                picture = tmp_path / "page.png"
                await browse(address, tmp_path, f"--window-size={size}", f"--screenshot={picture}", *options)
                assert corner(picture.read_bytes()) == ground

    run(main)


def test_what_an_operator_wrote_runs_nowhere(tmp_path: Path) -> None:
    async def main() -> None:
        node = MemoryNode(leading("beat"))
        node.warnings = ("<script>document.title = 'taken'</script>",)
        async with listening(node) as address:
            document = (await browse(address, tmp_path, "--dump-dom")).out
            assert "<title>highlanderd: web-1</title>" in document
            assert "&lt;script&gt;" in document

    asyncio.run(main())

"""Claims about the status page in a real browser: its own policy lets its style through, by day and by night."""

from __future__ import annotations

import asyncio
import shutil
import struct
import zlib
from functools import partial
from pathlib import Path

import pytest

from tests.integration.test_control_metrics import listening
from tests.integration.test_monitoring import fetched, watched
from tests.support.long import first_of
from tests.support.memory_node import Ended, MemoryNode, ended, leading, run
from tests.support.nodes import PATIENCE, Nodes
from tests.support.postgres import Database
from tests.support.wait import wait_for

pytestmark = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium, Debian's package of 300 MB")

TELEPHONE, WALL = "390,844", "1280,900"
DAY, NIGHT = (0xF5, 0xF6, 0xF8), (0x12, 0x16, 0x1C)
"""The grounds of both styles."""
READY = '<div>{} <span class="badge good">ready</span></div>'
"""How a leader stands there."""


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


@pytest.mark.parametrize("size", first_of([TELEPHONE, WALL]))
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


def test_after_a_failover_the_page_of_any_node_names_the_new_leader(
    nodes: Nodes, database: Database, tmp_path: Path
) -> None:
    addresses = watched(nodes, database, lambda _: "[program.beat]\n", "a", "b", "c")
    former = nodes.await_led("beat")["beat"]

    def await_shown(name: str, *words: str) -> None:
        """Wait until a node's page has these words: without a browser, which costs seconds of a core."""
        page = partial(fetched, f"http://{addresses[name]}/")
        wait_for(lambda: all(word in shown for shown in [page()] for word in words), PATIENCE, f"{name} shows {words}")

    await_shown(former.name, READY.format(former.name), "Nothing is out of the ordinary.")
    former.crash()
    leader = nodes.await_led("beat", without=former)["beat"]
    for name in addresses.keys() - {former.name}:
        await_shown(name, READY.format(leader.name), f"Not connected: {former.name}")
    assert READY.format(leader.name) in asyncio.run(browse(addresses[leader.name], tmp_path, "--dump-dom")).out

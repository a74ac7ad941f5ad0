"""A TCP door before PostgreSQL, to do to connections what networks do.

It runs in a thread of its own. What it cannot do: lose packets. The kernel acknowledges what we do not read, so
``tcp_user_timeout`` never fires here; that takes network namespaces.

| order | what becomes of connections | and of new ones |
|---|---|---|
| `cut()` | closed in good order | refused, until `heal()` |
| `reset()` | torn down by RST | served |
| `stall()` | stay open; nothing passes, not even an end, until `heal()` | accepted, never answered |
| `stall("questions")`, `stall("answers")` | the same, one way | |
| `swallow()` | answers are thrown away; questions arrive | the same; `heal()` resets those that lost bytes |
| `lose()` | nothing passes any more, not even an end, whatever else is done | served |
| `slow(seconds)` | every piece waits so long, in each direction | the same |
| `heal()` | goes on where it stood | served |
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.support.ports import reserved_port

Direction = Literal["questions", "answers"]
PIECE = 65536
BREATH = 0.0005
"""Seconds between two pieces of an answer that are cut small: their reader is to see them one by one."""
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: close() sends RST


@dataclass(eq=False, slots=True)
class Passage:
    """One client's connection through the door."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    spoilt: bool = False
    """Answers were thrown away, so what follows would make no sense to the client."""
    lost: bool = False
    """Whatever comes is thrown away, both ways."""

    def end(self, *, reset: bool) -> None:
        """Close both sides at once."""
        for writer in (self.client, self.server):
            if writer is not None:
                if reset:
                    with contextlib.suppress(OSError):  # it has just ended by itself
                        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                writer.transport.abort()


class Door:
    """A door before one TCP address. Every order has taken effect when its call returns.

    ``piece`` cuts answers into pieces of at most so many bytes, as TCP may: none holds a whole message then.
    """

    def __init__(self, host: str, port: int, piece: int = PIECE) -> None:
        self._target = (host, port)
        self._piece: dict[Direction, int] = {"questions": PIECE, "answers": piece}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="door", daemon=True)
        self._passages: set[Passage] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: dict[Direction, asyncio.Event] = {"questions": asyncio.Event(), "answers": asyncio.Event()}
        self._swallowing = False
        self._delay = 0.0
        self._listener: asyncio.Server | None = None
        self.port = reserved_port()
        self._thread.start()
        self._do(self._listen)
        self._do(self._let_pass)

    def dsn(self, dsn: str) -> str:
        """Return the same DSN, but through this door."""
        return make_conninfo(dsn, host="127.0.0.1", port=self.port)

    @property
    def connections(self) -> int:
        """How many clients are connected at the moment."""
        return len(self._passages)

    def cut(self) -> None:
        """Close every connection and take no new ones."""
        self._do(self._shut)
        self._do(lambda: self._end(reset=False))

    def reset(self) -> None:
        """Tear every connection down; new ones are served."""
        self._do(lambda: self._end(reset=True))

    def stall(self, *directions: Direction) -> None:
        """Let nothing pass any more, in the given directions or both."""
        for direction in directions or ("questions", "answers"):
            self._do(self._open[direction].clear)

    def swallow(self) -> None:
        """Pass the questions on and throw the answers away."""
        self._do(lambda: setattr(self, "_swallowing", True))

    def lose(self) -> None:
        """Forget the connections that are open, as a router does that was restarted; new ones are served."""
        self._do(self._lose)

    def slow(self, seconds: float) -> None:
        """Let every piece wait."""
        self._do(lambda: setattr(self, "_delay", seconds))

    def heal(self) -> None:
        """Be an open door again."""
        self._do(self._listen)
        self._do(self._let_pass)

    def close(self) -> None:
        """End every connection, and the thread."""
        self._do(self._shut)
        self._do(lambda: self._end(reset=False))
        self._do(self._cancel)
        self._do(lambda: None)  # one more turn, in which the cancelled tasks end
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    def _do(self, order: Callable[[], object]) -> None:
        async def obey() -> None:
            done = order()
            if asyncio.iscoroutine(done):
                await done

        asyncio.run_coroutine_threadsafe(obey(), self._loop).result(60)

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._admit, "127.0.0.1", self.port, backlog=1024)

    def _shut(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _let_pass(self) -> None:
        self._delay = 0.0
        self._swallowing = False
        self._end(reset=True, only_spoilt=True)
        for way in self._open.values():
            way.set()

    def _end(self, *, reset: bool, only_spoilt: bool = False) -> None:
        for passage in [passage for passage in self._passages if passage.spoilt or not only_spoilt]:
            self._passages.discard(passage)
            passage.end(reset=reset)

    def _lose(self) -> None:
        for passage in self._passages:
            passage.lost = True

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passage = Passage(writer)
        self._passages.add(passage)
        try:
            await self._open["questions"].wait()
            answers, passage.server = await asyncio.open_connection(*self._target)
            questions = self._carry(reader, passage.server, passage, "questions")
            await asyncio.gather(questions, self._carry(answers, writer, passage, "answers"))
        except OSError:
            pass  # an end that one side has made: the other side is ended as well
        finally:
            self._passages.discard(passage)
            passage.end(reset=False)

    async def _carry(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, passage: Passage, direction: Direction
    ) -> None:
        size = self._piece[direction]
        while piece := await source.read(size):
            await asyncio.sleep(self._delay if size == PIECE else max(self._delay, BREATH))
            await self._open[direction].wait()
            if self._swallowing and direction == "answers":
                passage.spoilt = True
            elif not passage.lost:
                sink.write(piece)
                await sink.drain()
        await self._open[direction].wait()
        if not passage.lost:
            sink.write_eof()


class OpensDoors(Protocol):
    """What the fixture ``door`` gives."""

    def __call__(self, dsn: str) -> Door:
        """Put a door before the server of this DSN."""


@pytest.fixture
def door() -> Iterator[OpensDoors]:
    """Doors before servers: ``door(database.dsn)`` makes one, ``.dsn(database.dsn)`` leads through it."""
    with contextlib.ExitStack() as doors:

        def before(dsn: str) -> Door:
            target = conninfo_to_dict(dsn)
            return doors.enter_context(contextlib.closing(Door(str(target["host"]), int(str(target["port"])))))

        yield before

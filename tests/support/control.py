"""A client of the control socket: it asks, it orders, and it hangs up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, UnixConnector


@asynccontextmanager
async def client(path: Path) -> AsyncIterator[ClientSession]:
    async with ClientSession("http://localhost", connector=UnixConnector(str(path), limit=0)) as session:
        yield session


async def get(path: Path, resource: str) -> tuple[int, Any]:
    async with client(path) as session, session.get(resource) as response:
        return response.status, await response.json()


async def post(path: Path, resource: str, body: object = None) -> tuple[int, Any]:
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body)
    async with client(path) as session, session.post(resource, data=data) as response:
        return response.status, await response.json()


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()

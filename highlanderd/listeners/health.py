"""The TCP listener: metrics for Prometheus, and yes-or-no answers for load balancers and Kubernetes. Read-only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from aiohttp import web

from highlanderd.core.status import NodeStatus, ProgramStatus
from highlanderd.listeners.metrics import Metrics
from highlanderd.listeners.shared_page import SharedPage
from highlanderd.listeners.sockets import Closer, Lend, keep, serve, tcp_door

SCRAPERS: Final = 128
"""Connections at once; a daemon without descriptors could not reach PostgreSQL again."""
KEEP: Final = 0.25
"""Seconds for which a page of metrics is shared: no scraper asks as often."""
PAGE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus' text format, which every version of every scraper reads."""


class Observed(Protocol):
    """What this listener needs of the daemon."""

    def status(self) -> NodeStatus:
        """Return the present snapshot, from memory."""

    async def refresh(self) -> None:
        """Refresh which nodes could lead what, and what children use, for half a second at most. Never raises."""


async def serve_health(
    node: Observed, metrics: Metrics, listen: str, alive: Callable[[], bool], lend: Lend = keep
) -> Closer:
    """Open the TCP listener on ``host:port``; ``alive`` says whether the event loop still runs.

    The result closes it. Raises HighlanderError when the address cannot be had.
    """
    app = web.Application(client_max_size=1024)
    answers = _Answers(node, metrics, alive)
    app.add_routes(
        [
            web.get("/metrics", answers.metrics),
            web.get("/healthz", answers.healthz),
            web.get("/readyz", answers.readyz),
            web.get("/leader/{program}", answers.leader),
        ]
    )
    return await serve(app, await tcp_door(listen), SCRAPERS, lend)


def _answer(yes: bool, why: str) -> web.Response:
    return web.Response(status=200 if yes else 503, text=f"{why}\n", headers={"Cache-Control": "no-store"})


class _Answers:
    """One method per endpoint; the body is a sentence for people, the status is the answer."""

    def __init__(self, node: Observed, metrics: Metrics, alive: Callable[[], bool]) -> None:
        self._status = SharedPage(node.status)
        self._metrics = SharedPage(lambda: metrics.render(node.status()), prepare=node.refresh, keep=KEEP)
        self._alive = alive

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=await self._metrics.get(), headers={"Content-Type": PAGE})

    async def healthz(self, _: web.Request) -> web.Response:
        alive = self._alive()
        return _answer(alive, "ok" if alive else "the event loop has not run for 3/10 of a lease")

    async def readyz(self, _: web.Request) -> web.Response:
        postgres = (await self._status.get()).postgres
        return _answer(
            postgres.connected, "ok" if postgres.connected else f"PostgreSQL cannot be used: {postgres.trouble}"
        )

    async def leader(self, request: web.Request) -> web.Response:
        name = request.match_info["program"]
        status = await self._status.get()
        for program in status.programs:
            if program.name == name:
                return _answer(*_leads(program))
        return web.Response(status=404, text=f"no program {name!r} is configured on {status.node}\n")


def _leads(program: ProgramStatus) -> tuple[bool, str]:
    if program.state != "leading":
        return False, f"{program.name} is {program.state} here; led by {program.leader or 'nobody'}"
    return program.ready, f"{program.name} is led here" + ("" if program.ready else ", but not ready yet")

"""The TCP listener: metrics for Prometheus, yes-or-no answers for load balancers, the cluster as JSON. Read-only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol

from aiohttp import web
from aiohttp.typedefs import Handler
from multidict import MultiDict

from highlanderd.core.cluster import ClusterOverview
from highlanderd.core.status import NodeStatus, ProgramStatus
from highlanderd.core.terms import PastTerm, SkippedTimes
from highlanderd.errors import HighlanderError, Interrupted, NoSuchProgram
from highlanderd.listeners.answers import cluster_facts, encoded
from highlanderd.listeners.asked_page import asked_page, refusable
from highlanderd.listeners.history import history_facts
from highlanderd.listeners.metrics import Metrics
from highlanderd.listeners.responses import failure, page
from highlanderd.listeners.shared_page import SharedPage
from highlanderd.listeners.sockets import Closer, Lend, keep, serve, tcp_door
from highlanderd.listeners.status_page import HEADERS, LATEST_TERMS, Seen, status_page
from highlanderd.threads import in_thread

SCRAPERS: Final = 128
"""Connections at once; a daemon without descriptors could not reach PostgreSQL again."""
KEEP: Final = 0.25
"""Seconds for which a page of metrics is shared: no scraper asks as often."""
PAGE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus' text format, which every version of every scraper reads."""


class Observed(Protocol):
    """What this listener needs of the daemon."""

    @property
    def name(self) -> str:
        """The node's name."""

    def facts(self) -> NodeStatus:
        """Return the present snapshot without the programs, which take milliseconds where they are many."""

    def status(self) -> NodeStatus:
        """Return the present snapshot, from memory."""

    def program(self, name: str) -> ProgramStatus:
        """Return the present status of one program, from memory. Raises NoSuchProgram, and Interrupted at an end."""

    async def refresh(self) -> None:
        """Refresh which nodes could lead what, what children use, and what they write, for half a second at most.

        Never raises.
        """

    async def cluster(self) -> ClusterOverview:
        """Return who leads what, and who could take it over. Raises HighlanderError when the ledger cannot be read."""

    async def history(self, names: Sequence[str], limit: int) -> tuple[PastTerm, ...]:
        """Return the newest terms, the newest last. Raises HighlanderError when they cannot be read."""

    async def skipped(self, names: Sequence[str], limit: int) -> tuple[SkippedTimes, ...]:
        """Return the newest scheduled times that were skipped, the newest last. Raises as ``history``."""


async def serve_health(
    node: Observed, metrics: Metrics, listen: str, alive: Callable[[], bool], lend: Lend = keep
) -> Closer:
    """Open the TCP listener on ``host:port``; ``alive`` says whether the event loop still runs.

    The result closes it. Raises HighlanderError when the address cannot be had.
    """
    app = web.Application(client_max_size=1024)
    answers = _Answers(node, metrics, alive)
    routes = [
        web.get("/", answers.page),
        web.get("/metrics", answers.metrics),
        web.get("/healthz", answers.healthz),
        web.get("/readyz", answers.readyz),
        web.get("/leader/{program}", answers.leader),
        web.get("/cluster", answers.cluster),
        web.get("/history", answers.history),
    ]
    app.add_routes([*routes, *(web.options(route.path, _options(route.handler)) for route in routes)])
    return await serve(app, await tcp_door(listen), SCRAPERS, lend)


def _options(handler: Handler) -> Handler:
    """Return the answer to OPTIONS: the status that GET has, because load balancers ask for that in this way."""

    async def answer(request: web.Request) -> web.StreamResponse:
        found = await handler(request)
        return web.Response(status=found.status, headers={"Allow": "GET, HEAD, OPTIONS", "Cache-Control": "no-store"})

    return answer


def _answer(yes: bool, why: str) -> web.Response:
    return web.Response(status=200 if yes else 503, text=f"{why}\n", headers={"Cache-Control": "no-store"})


class _Answers:
    """One method per endpoint; of a yes or no, the body is a sentence for people, and the status is the answer."""

    def __init__(self, node: Observed, metrics: Metrics, alive: Callable[[], bool]) -> None:
        self._node = node
        self._facts = SharedPage(partial(asyncio.sleep, 0), lambda _: node.facts())
        self._metrics = SharedPage(node.refresh, lambda _: metrics.render(node.status()), keep=KEEP)
        self._cluster = asked_page(lambda: refusable(node.cluster()), self._cluster_text)
        past = partial(history_facts, node.history, node.skipped, None, MultiDict[str]())
        self._history = asked_page(lambda: refusable(past()), _history_text)
        self._page = asked_page(self._written, lambda page: page)
        self._alive = alive

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=await self._metrics.get(), headers={"Content-Type": PAGE})

    async def healthz(self, _: web.Request) -> web.Response:
        alive = self._alive()
        return _answer(alive, "ok" if alive else "the event loop has not run for 3/10 of a lease")

    async def readyz(self, _: web.Request) -> web.Response:
        postgres = (await self._facts.get()).postgres
        return _answer(
            postgres.connected, "ok" if postgres.connected else f"PostgreSQL cannot be used: {postgres.trouble}"
        )

    async def leader(self, request: web.Request) -> web.Response:
        name = request.match_info["program"]
        try:
            return _answer(*_leads(self._node.program(name)))
        except NoSuchProgram:
            return web.Response(status=404, text=f"no program {name!r} is configured on {self._node.name}\n")
        except Interrupted as gone:
            return _answer(False, str(gone))

    async def cluster(self, _: web.Request) -> web.Response:
        return _json(await self._cluster.get())

    async def history(self, _: web.Request) -> web.Response:
        return _json(await self._history.get())

    async def page(self, _: web.Request) -> web.Response:
        return web.Response(text=await self._page.get(), content_type="text/html", headers=HEADERS)

    async def _written(self) -> str:
        """Return the status page. Of five hundred programs it takes a tenth of a second, so a thread writes it."""
        seen = await self._look()
        return await in_thread(lambda: status_page(seen), "write the status page")

    async def _look(self) -> Seen:
        """Look at the cluster and its past; what cannot be had is refused, and the page says so."""
        cluster = await refusable(self._node.cluster())
        terms = await refusable(self._node.history((), LATEST_TERMS))
        return Seen(self._node.status(), cluster, terms, time.time())

    def _cluster_text(self, overview: ClusterOverview | HighlanderError) -> str | HighlanderError:
        if isinstance(overview, HighlanderError):
            return overview
        return encoded(cluster_facts(overview, self._node.facts().maintenance))


def _history_text(facts: dict[str, object] | HighlanderError) -> str | HighlanderError:
    return facts if isinstance(facts, HighlanderError) else encoded(facts)


def _json(text: str | HighlanderError) -> web.Response:
    return failure(503, text.code, str(text)) if isinstance(text, HighlanderError) else page(text)


def _leads(program: ProgramStatus) -> tuple[bool, str]:
    if program.state != "leading":
        unknown = program.leader is None and not program.connected
        led = "who leads it is not known" if unknown else f"led by {program.leader or 'nobody'}"
        return False, f"{program.name} is {program.state} here; {led}"
    if not program.lease_remaining:
        return False, f"{program.name} was led here, and its lease has run out"
    return program.ready, f"{program.name} is led here" + ("" if program.ready else ", but not ready yet")

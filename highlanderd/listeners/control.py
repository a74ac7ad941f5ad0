"""The control socket: HTTP/1.1 with JSON on a Unix socket, for ``highlanderctl`` and ``curl --unix-socket``.

It passes questions and orders on to the node, and waits for their outcome where the client asks for that. It decides
nothing about programs. The kernel says who has connected: root, the daemon's own user and members of the group may
command, nobody else gets in. Every failure is ``{"error": {"code", "message"}}``: the message is a sentence that
names the cure.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from highlanderd import errors
from highlanderd.api import DEFAULT_TIMEOUT
from highlanderd.core.states import Author
from highlanderd.core.status import LeaseReport, ProgramDetail
from highlanderd.errors import BadRequest, HighlanderError, NoSuchProgram, NotPermitted, TimedOut, Unanswered
from highlanderd.listeners import carrying, everywhere, leases, witness
from highlanderd.listeners.answers import (
    cluster_facts,
    config_facts,
    detail_facts,
    encoded,
    facts_of,
)
from highlanderd.listeners.events import happenings
from highlanderd.listeners.history import history_facts
from highlanderd.listeners.logs import Logs
from highlanderd.listeners.orders import ORDERS, Node
from highlanderd.listeners.outcomes import next_change, reloaded
from highlanderd.listeners.peers import Peer, may_command, peer_of
from highlanderd.listeners.requests import body_of, wait_of, whole
from highlanderd.listeners.responses import answer, failure, page
from highlanderd.listeners.shared_page import SharedPage
from highlanderd.listeners.sockets import Closer, Lend, group_id, keep, serve, unix_door
from highlanderd.listeners.streams import Streams, flag

log = logging.getLogger(__name__)

CLIENTS = 512
"""Connections at once: more than any fleet of scripts needs, fewer than the descriptors a daemon can spare."""
LONGEST_BODY = 64 * 1024
"""Bytes of a request's body; the largest order has four short fields."""

HTTP_STATUS: Mapping[str, int] = {
    BadRequest.code: 400,
    NotPermitted.code: 403,
    NoSuchProgram.code: 404,
    errors.NoSuchNode.code: 404,
    errors.NotLeading.code: 409,
    errors.NeedsForce.code: 409,
    errors.ConfigurationError.code: 422,
    TimedOut.code: 504,
}
OTHERWISE_REFUSED = 409
"""Any other refusal is one of the present situation, with the cure in its sentence."""


async def serve_control(node: Node, socket: Path, mode: int, group: str | None, lend: Lend = keep) -> Closer:
    """Open the control socket with ``mode`` and ``group``; the result closes it and removes its file.

    Raises HighlanderError when a live daemon owns the socket or it cannot be made.
    """
    gid = await group_id(group)
    async with unix_door(socket, mode, gid) as (door, remove):
        close_door = await serve(_application(node, group, gid), door, CLIENTS, lend)

    async def close() -> None:
        await close_door()
        remove()

    return close


def _application(node: Node, group: str | None, gid: int | None) -> web.Application:
    app = web.Application(client_max_size=LONGEST_BODY, middlewares=[_doorkeeper(group, gid)])
    app.add_routes(_routes(_Api(node)))
    return app


def _routes(api: _Api) -> list[web.RouteDef]:
    return [
        web.get("/v1/status", api.status),
        web.get("/v1/programs/{name}", api.detail),
        web.get("/v1/programs/{name}/config", api.config),
        web.get("/v1/programs/{name}/logs", api.logs),
        web.get("/v1/logs", api.logs),
        web.get("/v1/events", api.events),
        web.get("/v1/history", api.history),
        web.get("/v1/history/{name}", api.history),
        web.get("/v1/cluster", api.cluster),
        web.get("/v1/explain", api.explain_many),
        web.get("/v1/explain/{name}", api.explain),
        web.get("/v1/ledger", api.ledger),
        web.post("/v1/ledger/lease", api.set_lease),
        web.post("/v1/ledger/migrate", api.migrate),
        web.get("/v1/maintenance", api.lease_report),
        web.post("/v1/maintenance", api.maintenance),
        web.post("/v1/drain", api.drain),
        web.post("/v1/resume", api.resume),
        web.post("/v1/programs/{name}/reopen", api.reopen),
        web.post("/v1/reload", api.reload),
        web.post("/v1/renew", api.renew),
        web.post("/v1/shutdown", api.shutdown),
        *(web.post(f"/v1/programs/{{name}}/{verb}", api.order(verb)) for verb in ORDERS),
    ]


# ------------------------------------------------------------------------------------------------------ the doorkeeper


def _doorkeeper(group: str | None, gid: int | None) -> Middleware:
    @web.middleware
    async def admit_and_answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            await _admit(request, group, gid)
            return await handler(request)
        except HighlanderError as error:
            return failure(HTTP_STATUS.get(error.code, OTHERWISE_REFUSED), error.code, str(error))
        except web.HTTPException as error:
            refused = failure(error.status, BadRequest.code, f"{request.method} {request.path}: {error.reason}")
            refused.headers.update({name: value for name, value in error.headers.items() if name == "Allow"})
            return refused
        except ConnectionError:  # the client cannot read this any more
            return failure(400, BadRequest.code, "the client is gone")
        except Exception:
            log.exception("a request on the control socket failed: %s %s", request.method, request.path)
            return failure(500, "internal", "the daemon failed to answer; its log says why. Please report this bug")

    return admit_and_answer


async def _admit(request: web.Request, group: str | None, gid: int | None) -> None:
    peer = _peer(request)
    if not may_command(peer, os.geteuid(), gid):
        raise NotPermitted(f"user {peer.uid} may not command this daemon; {_who_may(group, gid)}")
    if request.method != "GET":
        await whole(request)  # half a request orders nothing
        log.info("ordered by uid %d, pid %d: %s %s", peer.uid, peer.pid, request.method, request.path)


def _who_may(group: str | None, gid: int | None) -> str:
    """Return who may command, and how one more user may."""
    if not gid:  # the group of root is for nobody else
        return "only root and its own user may: use sudo, or name a group in [control] group and restart the daemon"
    return f"only root, its own user and the members of group {group!r} may: use sudo, or join it and log in again"


def _peer(request: web.Request) -> Peer:
    """Return the process at the other end. Raises ConnectionResetError when it is gone."""
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client is gone")
    return peer_of(transport.get_extra_info("socket"))


def _unread(file: str) -> str:
    return f"{file} has changed since it was loaded; 'highlanderctl reload' applies it"


def _detail_text(detail: ProgramDetail) -> str:
    return encoded(detail_facts(detail))


@contextmanager
def _question_to_the_ledger() -> Iterator[None]:
    """Add to a question that PostgreSQL does not answer what answers instead. Raises Unanswered."""
    try:
        yield
    except Unanswered as error:
        raise Unanswered(
            f"{error}; 'highlanderd --doctor' says why, and 'highlanderctl status' what this node knows by itself"
        ) from error


class _Api:
    """One method per endpoint."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._status = SharedPage(node.survey, self._status_text)
        self._measured_status = SharedPage(self._survey_and_measure, self._status_text)
        self._streams = Streams()
        self._logs = Logs(node, self._streams)
        self._details: dict[str, SharedPage[ProgramDetail, str]] = {}

    async def status(self, request: web.Request) -> web.Response:
        """Return the snapshot; with ``?wait=SECONDS`` after the next change or that time, whichever comes first.

        With ``?usage=false`` it does not wait for a look at what children use, and shows what the last one has found.
        """
        wait, shared = wait_of(request), self._measured_status if flag(request, "usage", default=True) else self._status
        if wait is not None:
            await next_change(self._node, asyncio.get_running_loop().time() + wait)
        return page(await shared.get())

    def _status_text(self, _: object) -> str:
        return encoded(self._node.status())

    async def _survey_and_measure(self) -> None:
        await asyncio.gather(self._node.survey(), self._node.measure())

    async def detail(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self._node.program(name)  # only programs that exist have pages
        self._details = {one: self._details[one] for one in self._node.programs if one in self._details}
        shared = self._details.setdefault(name, SharedPage(partial(self._detail, name), _detail_text))
        return page(await shared.get())

    async def _detail(self, name: str) -> ProgramDetail:
        await self._node.survey()
        return await self._node.detail(name)

    def order(self, verb: str) -> Handler:
        """Return the endpoint of one order on one program."""

        async def give(request: web.Request) -> web.StreamResponse:
            body = await body_of(request)
            name, by = request.match_info["name"], await self._author(request, body)
            if body.get("wait", False) or verb in carrying.TO_THE_LEADER:
                await self._node.survey()  # a term that this node has not heard of must not pass for the outcome
            if body.get("everywhere", False):
                return await self._everywhere(request, verb, by, body)
            where = await carrying.addressee(self._node, verb, name, body)
            if where != self._node.name:
                return answer(await witness.relay(self._node, where, verb, name, body, by))
            before = self._node.program(name)
            after = await carrying.carry_out(self._node, verb, before, body, by, lambda: request.transport is None)
            edited = await self._node.edited() if verb in ("start", "restart") else ()
            return answer({"program": facts_of(after), "warnings": [_unread(file) for file in edited]})

        return give

    async def _everywhere(
        self, request: web.Request, verb: str, by: Author, body: Mapping[str, Any]
    ) -> web.StreamResponse:
        give = everywhere.stop if verb == "stop" else everywhere.start
        if "node" in body:
            raise BadRequest("'everywhere' means all nodes, so 'node' cannot go with it")
        name = request.match_info["name"]
        program = await give(self._node, name, by, self._patience(request, body))
        return answer({"program": {"name": name, "leader": None} if program is None else facts_of(program)})

    def _patience(self, request: web.Request, body: Mapping[str, Any]) -> everywhere.Patience:
        seconds = body.get("timeout", DEFAULT_TIMEOUT) if body.get("wait", False) else None
        return everywhere.Patience(seconds, lambda: request.transport is None)

    async def drain(self, request: web.Request) -> web.Response:
        """Drain nodes: this one, if the body names none."""
        body = await body_of(request)
        us = self._node.name
        names, by = body.get("nodes", [us]), await self._author(request, body)
        patience = self._patience(request, body)
        await everywhere.drain(self._node, names, by, patience, force=body.get("force", False))
        return answer({"nodes": names})

    async def resume(self, request: web.Request) -> web.Response:
        """Resume nodes: this one, if the body names none."""
        body = await body_of(request)
        names, by = body.get("nodes", [self._node.name]), await self._author(request, body)
        return answer({"nodes": await everywhere.resume(self._node, names, by, self._patience(request, body))})

    async def _author(self, request: web.Request, body: Mapping[str, Any]) -> Author:
        return Author(await leases.author(_peer(request), self._node.name), body.get("reason", ""))

    async def reopen(self, request: web.Request) -> web.Response:
        await body_of(request)
        return answer({"reopened": await self._node.reopen(request.match_info["name"])})

    async def reload(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        dry_run, by = body.get("dry_run", False), await self._author(request, body)
        before = {program.name: program for program in self._node.status().programs}
        report = await self._node.reload(dry_run=dry_run, force=body.get("force", False), by=by)
        if body.get("wait", False) and not dry_run:
            restarted = [before[name] for name in report.restarted if name in before]
            patience = body.get("timeout", DEFAULT_TIMEOUT)
            await reloaded(self._node, restarted, report.added, patience, lambda: request.transport is None)
        return answer({"dry_run": dry_run, **facts_of(report)})

    async def renew(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        return answer(facts_of(await self._node.renew(force=body.get("force", False))))

    async def shutdown(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        self._node.shutdown(await self._author(request, body))
        return answer({"node": self._node.name})

    async def ledger(self, request: web.Request) -> web.Response:  # noqa: ARG002 - an endpoint takes its request
        return answer(await self._node.ledger())

    async def history(self, request: web.Request) -> web.Response:
        name, node = request.match_info.get("name"), self._node
        with _question_to_the_ledger():
            return answer(await history_facts(node.history, node.skipped, name, request.query))

    async def cluster(self, request: web.Request) -> web.Response:  # noqa: ARG002 - an endpoint takes its request
        with _question_to_the_ledger():
            overview = await self._node.cluster()
        return answer(cluster_facts(overview, self._node.facts().maintenance))

    async def explain(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        found = {one.program: one for one in await self._node.explain([name])}
        if name not in found:  # a glob
            raise NoSuchProgram.anywhere(name, found)
        return answer(facts_of(found[name]))

    async def explain_many(self, request: web.Request) -> web.Response:
        found = await self._node.explain(request.query.getall("name", []))
        return answer({"programs": [facts_of(one) for one in found]})

    async def logs(self, request: web.Request) -> web.StreamResponse:
        by = await self._author(request, {})
        return await self._logs.answer(request, by)

    async def config(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return answer(config_facts(name, await self._node.config(name)))

    async def events(self, request: web.Request) -> web.StreamResponse:
        return await self._streams.send(request, happenings(self._node, request))

    async def set_lease(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        lease, by = leases.lease(body), await self._author(request, body)
        ordered = await self._node.set_lease(lease, by, force=body.get("force", False))
        return await self._in_force(request, body, ordered, lambda report: report.lease)

    async def migrate(self, request: web.Request) -> web.Response:
        await body_of(request)
        return answer(facts_of(await self._node.migrate()))

    async def lease_report(self, request: web.Request) -> web.Response:  # noqa: ARG002 - an endpoint takes its request
        return answer(facts_of(await self._node.lease_report()))

    async def maintenance(self, request: web.Request) -> web.Response:
        """Begin or end a maintenance of PostgreSQL."""
        body = await body_of(request)
        outage, by = leases.outage(body), await self._author(request, body)
        ordered = await self._node.maintenance(outage, by, force=body.get("force", False))
        return await self._in_force(request, body, ordered, lambda report: report.maintenance)

    async def _in_force(
        self,
        request: web.Request,
        body: Mapping[str, Any],
        report: LeaseReport,
        changed: Callable[[LeaseReport], object],
    ) -> web.Response:
        if body.get("wait", False):
            patience = body.get("timeout", DEFAULT_TIMEOUT)
            report = await leases.in_force(self._node, report, changed, patience, lambda: request.transport is None)
        return answer(facts_of(report))

"""The control socket: HTTP/1.1 with JSON on a Unix socket, for ``highlanderctl`` and ``curl --unix-socket``.

It passes questions and orders on to the node, and waits for their outcome where the client asks for that. It decides
nothing about programs. The kernel says who is there: root, the daemon's own user and the group may command, nobody else
gets in. Every failure is ``{"error": {"code", "message"}}``, the message a sentence that names the cure.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from highlanderd import errors
from highlanderd.core.status import LeaseReport, NodeStatus, PostgresStatus, Process, ProgramDetail, ProgramStatus
from highlanderd.errors import BadRequest, HighlanderError, NoSuchProgram, NotPermitted, TimedOut
from highlanderd.listeners import leases
from highlanderd.listeners.orders import ORDERS, Node, NodeOrder, ReloadReport
from highlanderd.listeners.sockets import IDLE, Closer, Peer, group_id, may_command, peer_of, serve, unix_door

__all__ = ["Node", "ReloadReport", "detail_facts", "node_facts", "serve_control"]

log = logging.getLogger(__name__)

CLIENTS = 512
"""Connections at once: more than any fleet of scripts needs, fewer than the descriptors a daemon can spare."""
LONGEST_BODY = 64 * 1024
"""Bytes of a request's body; the largest order has four short fields."""
LONGEST_WAIT = 86_400.0
"""Seconds for which one request may wait; a wait has an end."""
DEFAULT_TIMEOUT = 60.0
"""Seconds to wait for an outcome when the client names none: six times the default stop_timeout."""
WAITING = ("wait", "timeout")
"""Fields of each order whose outcome may be waited for."""
LOOK_AGAIN = 1.0
"""Seconds between two looks at an outcome that no change announced: other nodes' terms are theirs."""


HTTP_STATUS: Mapping[str, int] = {
    BadRequest.code: 400,
    NotPermitted.code: 403,
    NoSuchProgram.code: 404,
    errors.NotLeading.code: 409,
    errors.NeedsForce.code: 409,
    errors.ConfigurationError.code: 422,
    TimedOut.code: 504,
}
OTHERWISE_REFUSED = 409
"""Any other refusal is one of the present situation, with the cure in its sentence."""


async def serve_control(node: Node, socket: Path, mode: int, group: str | None) -> Closer:
    """Open the control socket with ``mode`` and ``group``; the result closes it and removes its file.

    Raises HighlanderError when a live daemon owns the socket or it cannot be made.
    """
    gid = await group_id(group)
    async with unix_door(socket, mode, gid) as (door, remove):
        close_door = await serve(_application(node, group, gid), door, CLIENTS)

    async def close() -> None:
        await close_door()
        remove()

    return close


def _application(node: Node, group: str | None, gid: int | None) -> web.Application:
    api = _Api(node)
    app = web.Application(client_max_size=LONGEST_BODY, middlewares=[_doorkeeper(group, gid)])
    app.add_routes(
        [
            web.get("/v1/status", api.status),
            web.get("/v1/programs/{name}", api.detail),
            web.get("/v1/ledger", api.ledger),
            web.post("/v1/ledger/lease", api.set_lease),
            web.post("/v1/ledger/migrate", api.migrate),
            web.get("/v1/maintenance", api.lease_report),
            web.post("/v1/maintenance", api.maintenance),
            web.post("/v1/reload", api.reload),
            web.post("/v1/shutdown", api.shutdown),
            *(web.post(f"/v1/programs/{{name}}/{verb}", api.order(verb)) for verb in ORDERS),
        ]
    )
    return app


# ------------------------------------------------------------------------------------------------------ the doorkeeper


def _doorkeeper(group: str | None, gid: int | None) -> Middleware:
    @web.middleware
    async def keep(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            _admit(request, group, gid)
            return await handler(request)
        except HighlanderError as error:
            return _failure(HTTP_STATUS.get(error.code, OTHERWISE_REFUSED), error.code, str(error))
        except web.HTTPException as error:
            answer = _failure(error.status, BadRequest.code, f"{request.method} {request.path}: {error.reason}")
            answer.headers.update({name: value for name, value in error.headers.items() if name == "Allow"})
            return answer
        except ConnectionError:  # nobody is left to read this
            return _failure(400, BadRequest.code, "the client is gone")
        except Exception:
            log.exception("a request on the control socket failed: %s %s", request.method, request.path)
            return _failure(500, "internal", "the daemon failed to answer; its log says why. Please report this bug")

    return keep


def _admit(request: web.Request, group: str | None, gid: int | None) -> None:
    peer = _peer(request)
    if not may_command(peer, os.geteuid(), gid):
        members = f"the members of group {group!r}" if group is not None else "its own user"
        raise NotPermitted(
            f"user {peer.uid} may not command this daemon; only root and {members} may: "
            f"use sudo, or {f'join group {group!r}' if group is not None else 'set [control] group'}"
        )
    if request.method != "GET":
        log.info("ordered by uid %d, pid %d: %s %s", peer.uid, peer.pid, request.method, request.path)


def _peer(request: web.Request) -> Peer:
    """Return who is at the other end. Raises ConnectionResetError when nobody is any more."""
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client is gone")
    return peer_of(transport.get_extra_info("socket"))


def _failure(status: int, code: str, message: str) -> web.Response:
    return _json({"error": {"code": code, "message": message}}, status)


def _json(answer: Mapping[str, object], status: int = 200) -> web.Response:
    return web.Response(text=json.dumps(answer, default=str) + "\n", status=status, content_type="application/json")


# --------------------------------------------------------------------------------------------------------- snapshots

# dataclasses.asdict copies deeply: 15 ms for 500 programs. The snapshots are flat, but for lists of processes.
_FIELDS = {kind: tuple(f.name for f in fields(kind)) for kind in (ProgramStatus, PostgresStatus, Process)}


def _facts(snapshot: ProgramStatus | PostgresStatus | Process) -> dict[str, object]:
    return {name: getattr(snapshot, name) for name in _FIELDS[type(snapshot)]}


def _program_facts(program: ProgramStatus) -> dict[str, object]:
    return {**_facts(program), "unkillable": [_facts(process) for process in program.unkillable]}


def node_facts(status: NodeStatus) -> dict[str, object]:
    """Return the JSON of ``GET /v1/status``."""
    return {
        "node": status.node,
        "instance": status.instance,
        "version": status.version,
        "postgres": _facts(status.postgres),
        "programs": [_program_facts(program) for program in status.programs],
        "warnings": list(status.warnings),
        "maintenance": None if status.maintenance is None else asdict(status.maintenance),
    }


def detail_facts(detail: ProgramDetail) -> dict[str, object]:
    """Return the JSON of ``GET /v1/programs/{name}``: the program's status, and what else is known."""
    return {
        **_program_facts(detail.status),
        "lock_key": detail.lock_key,
        "command": list(detail.command),
        "directory": detail.directory,
        "user": detail.user,
        "environment": list(detail.environment),
        "processes": [_facts(process) for process in detail.processes],
        "output": list(detail.output),
    }


def _program(node: Node, name: str) -> ProgramStatus:
    programs = node.status().programs
    for program in programs:
        if program.name == name:
            return program
    raise NoSuchProgram.among(name, (program.name for program in programs))


async def _await_outcome(
    request: web.Request, node: Node, order: NodeOrder, before: ProgramStatus, patience: float
) -> ProgramStatus:
    loop = asyncio.get_running_loop()
    end, us = loop.time() + patience, node.status().node
    while True:
        now = _program(node, before.name)
        if order.outcome(before, now, us):
            return now
        if loop.time() >= end or request.transport is None:
            raise TimedOut(
                f"{now.name} is still {now.state} after {patience:g} s{': ' * bool(now.reason)}{now.reason}. The order "
                f"stands; see 'highlanderctl status {now.name}', or wait longer with --timeout"
            )
        await _change(node, min(end, loop.time() + LOOK_AGAIN))
        await node.survey()


async def _change(node: Node, at: float) -> None:
    try:
        async with asyncio.timeout_at(at):
            await node.changed()
    except TimeoutError:
        pass


# ----------------------------------------------------------------------------------------------------------- the API


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LONGEST_WAIT


_CHECKS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "wait": (lambda value: isinstance(value, bool), "true or false"),
    "dry_run": (lambda value: isinstance(value, bool), "true or false"),
    "timeout": (_is_seconds, f"a number of seconds from 0 to {LONGEST_WAIT:g}"),
    "for": (_is_seconds, f"a number of seconds from 0 to {LONGEST_WAIT:g}"),
    "lease": (_is_seconds, "a number of seconds"),
    "on": (lambda value: isinstance(value, bool), "true or false"),
    "force": (lambda value: isinstance(value, bool), "true or false"),
    "reason": (leases.is_reason, f"one line of printable text, of at most {leases.LONGEST_REASON} characters"),
    "to": (lambda value: value is None or (isinstance(value, str) and value != ""), "the name of a node"),
}


async def _body(request: web.Request, allowed: tuple[str, ...]) -> dict[str, Any]:
    try:
        async with asyncio.timeout(IDLE):
            raw = await request.read()
    except (TimeoutError, web.RequestPayloadError):
        raise BadRequest("the request's body never came whole") from None
    try:
        body = json.loads(raw) if raw.strip() else {}
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise BadRequest('the body must be a JSON object, such as {"wait": true}')
    for name, value in body.items():
        if name not in allowed:
            raise BadRequest(f"unknown field {name!r}: this request takes {', '.join(allowed) or 'no fields'}")
        check, wanted = _CHECKS[name]
        if not check(value):
            raise BadRequest(f"{name!r} must be {wanted}")
    return body


class _Api:
    """One method per endpoint."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def status(self, request: web.Request) -> web.Response:
        """Return the snapshot; with ``?wait=SECONDS`` after the next change or that long, whichever comes first."""
        wait = request.query.get("wait")
        if wait is not None:
            try:
                seconds = float(wait)
            except ValueError:
                seconds = math.nan
            if not 0 <= seconds <= LONGEST_WAIT:
                raise BadRequest(f"wait={wait!r} must be a number of seconds from 0 to {LONGEST_WAIT:g}")
            await _change(self._node, asyncio.get_running_loop().time() + seconds)
        await self._node.survey()
        return _json(node_facts(self._node.status()))

    async def detail(self, request: web.Request) -> web.Response:
        await self._node.survey()
        return _json(detail_facts(self._node.detail(request.match_info["name"])))

    def order(self, verb: str) -> Handler:
        """Return the endpoint of one order on one program."""
        order = ORDERS[verb]

        async def carry_out(request: web.Request) -> web.StreamResponse:
            body = await _body(request, (*WAITING, *order.fields))
            waits = body.get("wait", False)
            if waits:
                await self._node.survey()  # a term that nobody has told us of yet must not pass for the outcome
            before = _program(self._node, request.match_info["name"])
            order.give(self._node, before.name, body)
            if waits:
                patience = body.get("timeout", DEFAULT_TIMEOUT)
                after = await _await_outcome(request, self._node, order, before, patience)
            else:
                after = _program(self._node, before.name)
            return _json({"program": _program_facts(after)})

        return carry_out

    async def reload(self, request: web.Request) -> web.Response:
        body = await _body(request, ("dry_run",))
        dry_run = body.get("dry_run", False)
        report = await self._node.reload(dry_run)
        return _json({"dry_run": dry_run, "changes": list(report.changes)})

    async def shutdown(self, request: web.Request) -> web.Response:
        await _body(request, ())
        self._node.shutdown()
        return _json({"node": self._node.status().node})

    async def ledger(self, request: web.Request) -> web.Response:  # noqa: ARG002 - an endpoint takes its request
        return _json(await self._node.ledger())

    async def set_lease(self, request: web.Request) -> web.Response:
        body = await _body(request, ("lease", "force", *WAITING))
        if "lease" not in body:
            raise BadRequest('"lease" is missing: name the new lease in seconds, such as {"lease": 10}')
        ordered = await self._node.set_lease(float(body["lease"]), force=body.get("force", False))
        return await self._in_force(request, body, ordered, lambda report: report.lease)

    async def migrate(self, request: web.Request) -> web.Response:
        await _body(request, ())
        return _json(asdict(await self._node.migrate()))

    async def lease_report(self, request: web.Request) -> web.Response:  # noqa: ARG002 - an endpoint takes its request
        return _json(asdict(await self._node.lease_report()))

    async def maintenance(self, request: web.Request) -> web.Response:
        """Begin or end a maintenance of PostgreSQL."""
        peer = _peer(request)
        body = await _body(request, ("on", *leases.OF_MAINTENANCE, *WAITING))
        ordered = await self._node.maintenance(
            leases.outage(body),
            reason=body.get("reason", ""),
            author=await leases.author(peer, self._node.status().node),
            force=body.get("force", False),
        )
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
        return _json(asdict(report))

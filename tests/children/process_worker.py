"""A worker for the tests of the processes: commands and facts as JSON lines over a Unix socket, link.py in between.

Executed by a real guardian: ``process_worker.py LOOP SOCKET LEASE --worker FD``. It decides nothing by itself but to
ping and to give its children's output away, so each test says all that happens.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from highlanderd.children.child import Child
from highlanderd.children.guardian_link import GuardianLink
from highlanderd.children.messages import ChildEvent, KeeperReport, SpawnRequest
from highlanderd.guardian import log_report
from highlanderd.guardian.channel import Channel
from highlanderd.system.linux import boottime


class TestBench:
    """One worker's life at the end of a test's socket."""

    __test__ = False

    def __init__(self, guardian: GuardianLink, writer: asyncio.StreamWriter, lease: float) -> None:
        self.guardian, self.writer, self.lease = guardian, writer, lease
        self.children: dict[int, Child] = {}
        self.reports: dict[int, int] = {}
        self.pinging = True

    def tell(self, fact: str, **more: Any) -> None:
        self.writer.write(json.dumps({"fact": fact, "worker": os.getpid(), **more}).encode() + b"\n")

    def signalled(self, name: str) -> None:
        self.tell("signal", name=name)

    def guardian_lost(self) -> None:
        self.tell("lost")

    def listener(self, epoch: int) -> Callable[[ChildEvent], None]:
        def told(event: ChildEvent) -> None:
            facts = {name: getattr(event, name) for name in type(event).__struct_fields__}
            self.tell(type(event).__name__, epoch=epoch, **facts)

        return told

    def read_pipes(self, epoch: int) -> None:
        loop = asyncio.get_running_loop()
        for name, fd in self.children[epoch].pipes().items():
            loop.add_reader(fd, self.read_output, epoch, name, fd)
        report = self.children[epoch].log_report()
        if report is not None:
            self.reports[epoch] = report

    def read_output(self, epoch: int, name: str, fd: int) -> None:
        data = os.read(fd, 65536)
        if not data:
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)
            return
        self.tell("output", epoch=epoch, name=name, text=data.decode(errors="replace"))

    def request(self, program: str = "beat", **order: Any) -> SpawnRequest:
        now = boottime()
        for name in ("deadline", "not_after"):
            order[name] = now + order.get(name, 60)
        if "log" in order:
            files = {name: path.encode() for name, path in order["log"].pop("files").items()}
            order["log"] = {"files": files, "max_bytes": 0, "backups": 0, **order["log"]}
        order = {"lock_id": 7, "env": {"PATH": "/usr/bin:/bin"}, **order, "memo": order.get("memo", "").encode()}
        return SpawnRequest(program=program, **order)

    def spawn(self, request: SpawnRequest) -> None:
        child = Child(self.guardian, request.program, request.lock_id, request.epoch)
        self.children[child.epoch] = child
        child.listen(self.listener(child.epoch), partial(self.read_pipes, child.epoch))
        child.start(request)

    def act(self, command: str, epoch: int = 0, **more: Any) -> None:
        child = self.children.get(epoch)
        if command == "spawn":
            self.spawn(self.request(epoch=epoch, **more))
        elif command == "prepare":
            self.guardian.prepare(self.request(epoch=epoch, **more))
        elif command == "discard":
            self.guardian.discard(more["lock_id"])
        elif command == "entrust" and child:
            child.set_deadline(boottime() + more["deadline"], more["memo"].encode())
        elif command == "report" and child:
            fields = KeeperReport.__struct_fields__
            report = {name: getattr(child.report, name, None) for name in fields}  # perhaps none yet
            self.tell("report", epoch=epoch, **{**report, "memo": (report["memo"] or b"").decode()})
        elif command in ("signal", "kill", "watch", "run_hook", "end") and child:
            getattr(child, command)(**more)
        elif command == "order_log" and child:
            self.guardian.order_log(child, more["order"])
        elif command == "probe" and child:
            self.tell("probing", epoch=epoch, n=child.probe(tuple(more["argv"]), more["timeout"]))
        elif command == "logged":
            seen = (log_report.read(self.reports[epoch]) if epoch in self.reports else None) or {}
            last = [line.decode() for *_, line in seen.get("last", ())]
            self.tell("logged", epoch=epoch, lines=seen.get("lines"), troubles=seen.get("troubles"), last=last)
        elif command == "remember":
            self.guardian.remember(more["memo"].encode())
        elif command == "holds":
            self.tell("holds", answer=self.guardian.holds(more["lock_id"], more["program"]))
        elif command == "unprovable" and child:
            self.tell("unprovable", epoch=epoch, answer=child.unprovable)
        elif command == "pinging":
            self.pinging = more["on"]
        elif command == "draining":
            self.guardian.draining()
        elif command == "done":
            self.guardian.done(more["code"])
            asyncio.get_running_loop().call_later(0.05, os._exit, 3)
        elif command == "crash":
            os._exit(3)
        else:
            raise AssertionError(command, epoch)

    async def ping(self) -> None:
        while True:
            if self.pinging and not self.guardian.ping(self.lease):
                self.tell("frozen guardian")
            self.guardian.check(boottime(), self.lease)
            await asyncio.sleep(self.lease / 10)

    async def greet(self) -> None:
        greeting = await self.guardian.greeted()
        found = []
        for each in greeting.found:
            child = self.children[each.child.epoch] = each.child
            child.listen(self.listener(child.epoch), partial(self.read_pipes, child.epoch))
            found.append({"epoch": child.epoch, "pid": child.pid, "memo": each.report.memo.decode()})
            self.read_pipes(child.epoch)
        memo = None if greeting.memo is None else greeting.memo.decode()
        self.tell(
            "greeting",
            instance=greeting.instance,
            draining=greeting.draining,
            memo=memo,
            found=found,
        )
        self.guardian.listen(self)


async def main(path: str, lease: float, fd: int) -> None:
    reader, writer = await asyncio.open_unix_connection(path)
    bench = TestBench(GuardianLink(Channel(socket.socket(fileno=fd))), writer, lease)
    async with asyncio.TaskGroup() as tasks:
        await bench.greet()
        tasks.create_task(bench.ping())
        while line := await reader.readline():
            bench.act(**json.loads(line))
        os._exit(4)  # the test is over


if __name__ == "__main__":
    loop_name, socket_path, lease_text, _, channel_fd = sys.argv[1:]
    if loop_name == "uvloop":
        import uvloop

        uvloop.run(main(socket_path, float(lease_text), int(channel_fd)))
    else:
        asyncio.run(main(socket_path, float(lease_text), int(channel_fd)))

"""The process that stands by one child: it starts it, signals it, kills its whole tree in time, and proves it empty.

Theory of operation
===================

A keeper is forked from the guardian, one for each term, and has one thread. It is a subreaper: when a process below it
dies, the kernel makes that process' children the keeper's. So everything that the child ever starts stays below the
keeper, however it forks, and ``waitpid`` fails with ECHILD if and only if nothing of it is left. That is the only proof
of an empty tree. cgroups and walks through /proc help to kill, and prove nothing.

A keeper may be forked before its term has begun. Its child then waits at a gate, and the keeper reports nothing, until
the guardian's ``execute`` comes. A term that does not begin ends both.

Everything that is known of the child is one dict, ``_state``. After each change all of it is sent to the guardian and
to the worker. A channel that is full now gets a newer state later, so a slow reader costs nothing. A deadline that only
moves on is noted where the guardian reads it (``deadline_notes.py``), and the worker sees by itself that it was read.

One loop waits for signals (SIGCHLD), for the deadline's timer, for both channels, for the child's answer and for what
it says of itself. Then each turn takes the same steps, whatever woke it, but for new deadlines alone:

1. read the channels, the guardian's before the worker's, which it may replace;
2. hear what the child says by sd_notify(3), before what has said it is reaped; kill a probe whose time is over;
3. begin a hook that is due, or kill it when its time is over;
4. reap what has died;
5. read whether the program was executed;
6. judge the deadline, and kill one round if the tree is to be killed;
7. send the signals that were ordered;
8. send the state where it is owed.

Three things begin the killing, and nothing ends it before no process of the tree is left. Then the hook ``after_stop``
may run, if the worker's ``kill`` says so:

* the deadline, or ``not_after`` while nothing is executed yet: the lease may be over, and another node may lead;
* the worker's ``kill``;
* guardian and worker are both gone.

The keeper ends, with exit code 0, when the tree is empty and the worker has acknowledged that with ``leave``, or when
guardian and worker are both gone. If it dies before, the guardian takes over; see ``dead_keepers.py``.

What the keeper must never do:

* wait for anything but the poll: a late deadline is a second leader
* open a path that a user chose: the path may hang; the child does that itself, in ``launch.py``
* need a new descriptor, memory or process in order to kill: the child may have taken them all

So an OSError in a step is logged once, leaves the other steps alone, and the step is tried again in the next turn.
Memory counts, because there is one keeper for each child. It is shared with the guardian until one of them writes to
it, which is why some imports here are unusual.
"""

from __future__ import annotations

import os
import select
import time

from highlanderd.guardian import cgroup, cgroup_limits, messages, protocol, shapes
from highlanderd.guardian.channel import Channel
from highlanderd.guardian.health import Health
from highlanderd.guardian.hooks import BEFORE_START, BEFORE_STOP, Hooks
from highlanderd.guardian.killing import TreeKill, unkillable
from highlanderd.guardian.pending_signals import PendingSignals
from highlanderd.guardian.start import Start
from highlanderd.system import linux, priority, proctree

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from highlanderd.guardian.channel import Message
    from highlanderd.guardian.launch import Spec

AGAIN = 50  # milliseconds until what no event wakes us for is tried again: a round of killing that has not killed all
REMOVE_WITHIN = 2.0  # seconds for what a child has left below its cgroup; the child is proven gone by then
REPORT_AGAIN = 0.04  # seconds, less than that: the guardian has to see that a keeper which kills is not frozen


class Keeper:
    """One child from its fork to the proof. ``spec`` is the worker's request, with term and ``not_after`` added.

    ``signals`` may be the guardian's: a signalfd delivers to the process that reads it. All but SIGCHLD are ignored.
    With ``gated`` the term has not begun: ``execute`` says when it has. ``note`` is called with each deadline that was
    moved on, and its memo, and raises OSError where it cannot note them; without it the guardian is sent them.
    """

    def __init__(
        self,
        spec: Spec,
        signals: linux.Signals,
        guardian: Channel,
        worker: Channel,
        directory: str | None,
        logged: dict[str, int],
        *,
        gated: bool = False,
        note: Callable[[float, bytes], None] | None = None,
    ) -> None:
        self._spec, self._signals, self._directory, self._logged = spec, signals, directory, logged
        self._gated, self._note = gated, note
        self._nofile = (0, 0)
        self._guardian: Channel | None = guardian
        self._worker: Channel | None = worker
        self._timer = linux.Timer()
        self._start: Start | None = None
        """Until it is known whether the program was executed."""
        self._state = {**messages.state(spec), "keeper": os.getpid()}
        self._pipes: dict[str, int] = {}
        self._owed_guardian = self._owed_worker = self._owed_pipes = True
        self._owed_acknowledgement = False
        """To an earlier worker, which knows all but the deadline and the memo."""
        self._told: Message = {}
        """The last state that was sent to the worker."""
        self._reported_at = 0.0
        """When a state was last sent to the guardian."""
        self._children: proctree.Children | None = None
        self._killer: int | None = None
        """Kills the whole cgroup. Opened early, as the list of children is: killing needs no new descriptor."""
        self._killing = TreeKill()
        self._pending = PendingSignals()
        self._health = Health(self._state)
        self._hooks = Hooks(spec, self._state, logged) if spec.get("hooks") else None
        """None without any: what a keeper never uses costs it no memory."""
        self._kills = self._final = False
        """Whether the tree is being killed; and whether no hook may run any more."""
        self._killing_since = 0.0
        self._released = self._again = self._complained = False
        self._quiet = False
        """Whether nothing has happened since the last turn, but that the worker has sent something."""
        self._poller = select.poll()

    def run(self, nofile: tuple[int, int]) -> int:
        """Keep the child until its tree is empty and that is acknowledged; return the exit code."""
        try:
            self._nofile = nofile
            self._launch()
        except OSError as error:
            self._fail(error)
        while not self._finished():
            self._turn()
            if not self._finished():
                self._wait()
        if self._directory:
            cgroup.remove(self._directory, within=REMOVE_WITHIN)
        return 0

    def _fail(self, error: OSError) -> None:
        self._change(failed=f"cannot prepare the child: {error.strerror}; the machine is short of memory or processes")

    def _launch(self) -> None:
        self._children = proctree.Children()
        self._spec = self._health.prepare(self._spec)
        if self._directory and not cgroup.create(self._directory):
            self._directory = None
        self._killer = cgroup.killer(self._directory) if self._directory else None
        if limits := self._spec.get("cgroup_limits"):
            self._change(unlimited=cgroup_limits.apply(self._directory, limits))
        if self._hooks is not None and self._hooks.has(BEFORE_START):
            self._hooks.add(BEFORE_START)
        else:
            self._start_program(self._spec)

    def _start_program(self, spec: Spec) -> None:
        logged = self._logged if self._hooks is None else self._hooks.lent(self._logged)
        self._start = Start(spec, self._directory, self._nofile, logged, gated=self._gated)
        self._pipes = self._start.pipes
        self._change(pid=self._start.pid)

    @property
    def _abandoned(self) -> bool:
        return self._guardian is None and self._worker is None

    def _finished(self) -> bool:
        return bool(self._state["empty"]) and (self._released or self._abandoned)

    # -------------------------------------------------------------------------------------------------- turn by turn

    def _wait(self) -> None:
        """Wait for the next event. The wait has no end only while a child or a channel can end it."""
        owed_worker = self._owed_worker or self._owed_acknowledgement
        if not self._quiet or self._owed_guardian or owed_worker:
            self._poller = self._all_sources(owed_worker)
        killing = self._state["killed"] and not self._state["empty"]
        at_once = killing and self._kills and self._killing.unfinished
        again = 0 if at_once else AGAIN if killing or self._again else linux.NEVER
        again = min(again, 1000 * self._health.patience)
        if self._hooks is not None:
            again = min(again, 1000 * self._hooks.patience)
        self._quiet = False
        try:
            ready = self._poller.poll(None if again == linux.NEVER else again)
        except OSError as error:  # for want of memory, for instance; the next turn looks at everything
            self._complain(error)
            time.sleep(AGAIN / 1000)
        else:
            worker = None if self._worker is None or killing or self._again else self._worker.fileno()
            self._quiet = ready == [(worker, select.POLLIN)]

    def _all_sources(self, owed_worker: bool) -> select.poll:
        poller = select.poll()
        hook = None if self._hooks is None else self._hooks.source
        for source in (self._signals, self._timer, self._start, self._health.source, hook):
            if source is not None:
                poller.register(source, select.POLLIN)
        for channel, owed in ((self._guardian, self._owed_guardian), (self._worker, owed_worker)):
            if channel is not None:
                poller.register(channel, select.POLLIN | (select.POLLOUT if owed and not self._gated else 0))
        return poller

    def _turn(self) -> None:
        """Take all steps; or what deadlines need, if the worker has sent nothing else, and nothing else has happened.

        One that the system refuses now is taken again in a later turn, and stops no other.
        """
        self._again = False
        if self._quiet:
            self._take(Keeper._receive_worker)
        for step in STEPS_OF_RENEWAL if self._quiet else STEPS:
            self._take(step)

    def _take(self, step: Callable[[Keeper], None]) -> None:
        try:
            step(self)
        except OSError as error:
            self._complain(error)

    def _complain(self, error: OSError | ValueError) -> None:
        self._again = True
        if not self._complained:
            self._complained = True
            linux.log(f"highlanderd: the keeper of {self._spec['program']} is hindered: {linux.describe(error)}")

    # ------------------------------------------------------------------------------------------------------- messages

    def _receive_all(self) -> None:
        """Read the guardian's messages before those of the worker that they may replace."""
        self._signals.take()
        self._guardian = self._receive(self._guardian)
        self._receive_worker()

    def _receive_worker(self) -> None:
        self._worker = self._receive(self._worker)

    def _receive(self, channel: Channel | None) -> Channel | None:
        try:
            while channel is not None and (received := channel.receive()) is not None:
                name = received[0]["is"]
                self._quiet = self._quiet and name == "deadline"
                if shapes.check(protocol.KEEPER, received[0]):  # a newer worker may send what is not known here
                    HANDLERS[name](self, *received)
                if self._quiet:  # most often there is no other one, and else it wakes us
                    break
        except ValueError as error:  # what it asks for is not known; the deadline holds
            self._complain(error)
        except EOFError:
            self._quiet = False
            if channel is not None:
                channel.close()
            return None
        return channel

    def _on_worker(self, _message: Message, fds: list[int]) -> None:
        """Obey only the guardian's latest worker."""
        if fds:
            if self._worker is not None:
                self._worker.close()
            self._worker = Channel.of(fds[0])
            self._owed_worker = self._owed_pipes = True

    def _on_execute(self, message: Message, _fds: list[int]) -> None:
        """Begin the term, which this keeper was forked for: its child goes on from the gate."""
        self._gated, deadline, not_after = False, message["deadline"], message["not_after"]
        self._spec = {**self._spec, "not_after": not_after}
        self._change(deadline=deadline, memo=message["memo"])
        if self._start is not None:
            self._start.open_gate(deadline, not_after)

    def _on_deadline(self, message: Message, _fds: list[int]) -> None:
        state = self._state
        later = message["at"] >= state["deadline"]
        state["deadline"], state["memo"] = message["at"], message["memo"]
        self._owed_guardian = self._owed_guardian or not (self._noted() and later)
        told = self._told
        told["deadline"], told["memo"] = message["at"], message["memo"]
        if not message.get("brief") or told != state:
            self._change()
        elif not message.get("silent"):
            self._owed_acknowledgement = True

    def _noted(self) -> bool:
        """Note the deadline, and return whether that has succeeded."""
        if self._note is None:
            return False
        try:
            self._note(self._state["deadline"], self._state["memo"])
        except OSError:
            return False
        return True

    def _on_kill(self, message: Message, _fds: list[int]) -> None:
        if not (message.get("after") and self._hooks is not None and self._hooks.after):
            self._begin_killing("order", final=not message.get("after"))

    def _on_hook(self, message: Message, _fds: list[int]) -> None:
        state = self._state
        self._read_answer()  # it may have been executed a moment ago
        if self._hooks is not None and state["started"] is not None and state["status"] is None and not state["killed"]:
            self._hooks.add(message["name"])

    def _on_end(self, message: Message, fds: list[int]) -> None:
        if self._hooks is not None:
            self._hooks.cause = message["cause"]
        if message["announced"]:
            self._on_hook({"name": BEFORE_STOP}, fds)

    def _on_leave(self, _message: Message, _fds: list[int]) -> None:
        self._released = bool(self._state["empty"])

    def _on_signal(self, message: Message, _fds: list[int]) -> None:
        self._pending.add(message)

    def _on_watch(self, message: Message, _fds: list[int]) -> None:
        self._health.watch(message["within"])

    def _on_probe(self, message: Message, _fds: list[int]) -> None:
        if self._health.probe(message, self._spec, self._directory, self._nofile):
            self._change()

    def _change(self, **facts: Any) -> None:
        self._state.update(facts)
        self._owed_guardian = self._owed_worker = True

    def _report(self) -> None:
        """Send the whole state where it is owed. A full channel gets a newer one later.

        The guardian comes first: it must know no less than the worker does when the worker acts on a state.
        """
        if self._gated:
            return
        if self._owed_guardian and self._guardian is not None:
            self._owed_guardian = not self._guardian.send(self._state)
            self._reported_at = linux.boottime()
        if self._owed_worker and self._worker is not None:
            names, fds = (list(self._pipes), list(self._pipes.values())) if self._owed_pipes else ([], [])
            self._owed_worker = not self._worker.send(messages.state_with_pipes(self._state, names), fds)
            self._owed_pipes = self._owed_pipes and self._owed_worker
            if not self._owed_worker:
                self._told, self._owed_acknowledgement = dict(self._state), False
        elif self._owed_acknowledgement and self._worker is not None:
            self._owed_acknowledgement = not self._worker.send(messages.acknowledged(self._state["deadline"]))

    # ----------------------------------------------------------------------------------------------------- the child

    def _mind_health(self) -> None:
        if self._health.turn():
            self._change()

    def _mind_hooks(self) -> None:
        if self._hooks is not None and self._hooks.turn(self._directory, self._nofile):
            self._change()
            self._go_on(self._hooks)

    def _go_on(self, hooks: Hooks) -> None:
        """Execute the program once ``before_start`` has done its work, or not at all when it has failed."""
        if self._state["pid"] is not None or self._state["failed"] is not None or self._kills:
            return
        failed = hooks.failure
        if failed is None and hooks.prepared and hooks.cause is not None:
            failed = "it was stopped before it was started"
        if failed is not None:
            self._change(failed=failed)
        elif hooks.prepared:  # the worker knows that the order has arrived: from now on the deadline alone counts
            until = self._state["deadline"]
            try:
                self._start_program({**self._spec, "deadline": until, "not_after": until})
            except OSError as error:
                self._fail(error)

    def _reap(self) -> None:
        while not self._state["empty"]:
            try:
                pid, status = linux.reap()
            except ChildProcessError:
                self._end()
                return
            if pid == 0:
                return
            if pid == self._state["pid"] and self._state["status"] is None:
                self._change(status=status, exited_at=linux.boottime())
            if self._health.reaped(pid, status):
                self._change()
            if self._hooks is not None and self._hooks.reaped(pid, status):
                self._change()
                self._go_on(self._hooks)
                self._mind_hooks()  # the next one, that has ended this one

    def _end(self) -> None:
        """Nothing of the tree is left. Let ``after_stop`` run, or conclude."""
        if self._hooks is not None:
            self._read_answer()
            if not self._final and self._hold(self._hooks):
                return
            self._hooks.close()
        self._change(empty=True, undying=[])  # the proof

    def _hold(self, hooks: Hooks) -> bool:
        """Return whether the end has to wait for ``after_stop``, and run that."""
        before = self._state["hooks"]
        if not hooks.hold(linux.boottime()):
            return False
        self._kills, self._again = False, True
        priority.restore_priority()
        hooks.turn(self._directory, self._nofile)
        if self._state["hooks"] is not before:
            self._change()
        return True

    def _read_answer(self) -> None:
        if self._start is None or not self._start.read():
            return
        failed, self._start = self._start.failure, None
        if failed is None:
            self._change(started=self._state["exited_at"] or linux.boottime())
        else:
            self._change(failed=failed)

    def _signal(self) -> None:
        if self._hooks is None or not self._hooks.alone:
            self._pending.send(self._state["pid"], reaped=self._state["status"] is not None)

    # ------------------------------------------------------------------------------------------------------ its death

    def _judge(self) -> None:
        if linux.boottime() >= self._kill_at():
            self._begin_killing("deadline")
        if self._abandoned:
            self._begin_killing("abandoned")
        if self._hooks is not None and (self._hooks.over or self._hooks.failure is not None):
            self._begin_killing("order")
        kill_at = linux.NEVER if self._state["empty"] or self._final else self._kill_at()
        if kill_at != self._timer.at:  # before a round of killing that may be refused: the timer would fire for ever
            self._timer.set(kill_at)
        if self._state["killed"] and not self._state["empty"]:
            self._kill()

    def _kill_at(self) -> float:
        """Return the deadline, or ``not_after`` if that is earlier and neither hook nor program is executed yet."""
        deadline: float = self._state["deadline"]
        executed = self._state["started"] is not None or (self._hooks is not None and self._hooks.executed)
        return deadline if executed else min(deadline, self._spec["not_after"])

    def _begin_killing(self, why: str, *, final: bool = True) -> None:
        if self._state["empty"] or (self._kills and (self._final or not final)):
            return
        self._kills, self._final = True, self._final or final
        if self._hooks is not None:
            self._hooks.cancel()
        self._killing_since = linux.boottime()
        if not self._state["killed"]:
            self._change(killed=why, killed_at=linux.boottime())
            priority.raise_priority()  # a tree that floods the machine would keep us from killing it

    def _kill(self) -> None:
        """Kill one round. What dies leaves its children to the keeper, and their SIGCHLD begins the next round.

        The guardian gets a report several times a second meanwhile: it kills a keeper that has frozen.
        """
        now = linux.boottime()
        if self._killer is not None and self._kills:
            cgroup.kill_by(self._killer)
        left = [] if self._children is None else self._children.now()
        if now >= self._reported_at + REPORT_AGAIN:
            self._owed_guardian = True
            named = unkillable(self._killing_since, left) if self._kills else []
            if named != self._state["undying"]:
                self._change(undying=named)
        if self._kills:
            self._killing.round(left)


STEPS = (
    Keeper._receive_all,
    Keeper._mind_health,
    Keeper._mind_hooks,
    Keeper._reap,
    Keeper._read_answer,
    Keeper._judge,
    Keeper._signal,
    Keeper._report,
)
STEPS_OF_RENEWAL = (Keeper._judge, Keeper._report)
HANDLERS = {
    "worker": Keeper._on_worker,
    "execute": Keeper._on_execute,
    "deadline": Keeper._on_deadline,
    "signal": Keeper._on_signal,
    "watch": Keeper._on_watch,
    "probe": Keeper._on_probe,
    "hook": Keeper._on_hook,
    "end": Keeper._on_end,
    "kill": Keeper._on_kill,
    "leave": Keeper._on_leave,
}

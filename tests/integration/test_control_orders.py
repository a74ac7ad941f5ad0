"""Orders that cannot be carried out, or that a later one has overtaken: each ends at once and says so."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from highlanderd.core.cluster import ClusterOverview, Held
from highlanderd.core.status import LastExit, ProgramStatus
from highlanderd.errors import HighlanderError, Unanswered
from highlanderd.structs import replace
from tests.support.control import post
from tests.support.memory_node import MemoryNode, ctl, leading, program, run, serving
from tests.support.wait import until


def refused(before: ProgramStatus, verb: str, directory: Path, *later: ProgramStatus, **body: Any) -> str:
    """Return why an order that waits has failed, once its program has become these, one after the other."""
    node, said = MemoryNode(before, obedient=False), list[str]()

    async def main() -> None:
        async with serving(node, directory) as path:
            asked = asyncio.create_task(post(path, f"/v1/programs/beat/{verb}", {"wait": True, **body}))
            await until(lambda: bool(node.orders))
            for status in later:
                node.become("beat", status)
            code, answer = await asked
        assert (code, answer["error"]["code"]) == (409, "failed")
        said.append(answer["error"]["message"])

    run(main)
    return said[0]


def test_a_start_that_a_later_stop_has_overtaken_ends_at_once_and_says_whose(tmp_path: Path) -> None:
    stopped = program("beat", "stopped", want="stop", reason="stopped by uid 0 on node web-1")
    assert refused(program("beat"), "start", tmp_path, stopped) == (
        "a later order has overtaken this one: beat is stopped by uid 0 on node web-1"
    )


@pytest.mark.parametrize(
    ("verb", "body", "message"),
    [
        ("restart", {}, "beat is stopped everywhere by ann"),
        ("start", {}, "beat is stopped everywhere by ann"),
        ("release", {"to": "web-2"}, "beat was released, but is stopped everywhere by ann: it corrupts data"),
    ],
)
def test_an_order_that_a_later_stop_everywhere_has_overtaken_ends_at_once_and_says_whose(
    verb: str, body: dict[str, Any], message: str, tmp_path: Path
) -> None:
    before = leading("beat") if verb != "start" else program("beat")
    everywhere = Held("ann", "it corrupts data", "2026-01-02T03:04:05.678Z")
    held = program("beat", "stopped", suspended=True, stopped=everywhere, epoch=7, reason="stopped everywhere by ann")
    assert refused(before, verb, tmp_path, held, **body) == f"a later order has overtaken this one: {message}"


def test_a_restart_that_a_later_drain_has_overtaken_ends_once_the_program_has_stopped(tmp_path: Path) -> None:
    drains = program("beat", "draining", suspended=True, epoch=7, reason="restarted")
    drained = program("beat", "stopped", suspended=True, epoch=7, reason="drained by ann")
    assert refused(leading("beat"), "restart", tmp_path, drains, drained) == (
        "a later order has overtaken this one: beat is stopped, drained by ann"
    )


def test_a_stop_that_a_later_start_has_overtaken_ends_at_once(tmp_path: Path) -> None:
    why = refused(leading("beat"), "stop", tmp_path, leading("beat", epoch=8))
    assert "beat was started again, and is leading" in why


@pytest.mark.parametrize(
    ("success", "code", "out", "err"),
    [
        (True, 0, "beat: finished (status 3), epoch 8\n", ""),
        (None, 0, "beat: finished (status 3), epoch 8\n", ""),
        (
            False,
            1,
            "",
            "highlanderctl: start beat: beat failed: it ended with status 3; see 'highlanderctl show beat'\n",
        ),
    ],
)
def test_a_start_of_what_finishes_at_once_says_how_it_has_ended(
    success: bool | None, code: int, out: str, err: str, tmp_path: Path
) -> None:
    node = MemoryNode(program("beat", finished=True, epoch=7), obedient=False)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = asyncio.create_task(ctl(path, "start", "beat"))
            await until(lambda: bool(node.orders))
            last = LastExit(at="2026-01-02T03:04:05.678Z", epoch=8, status=3, signal=None, success=success)
            ended = program("beat", epoch=8, last_exit=last)
            node.become("beat", ended)
            surveys = node.surveys
            await until(lambda: node.surveys > surveys)
            node.become("beat", replace(ended, finished=True))
            done = await asked
        assert (done.code, done.out, done.err) == (code, out, err)

    run(main)


@pytest.mark.parametrize("over", ["finished", "idle"])
@pytest.mark.parametrize("order", [("restart",), ("release", "--to", "web-3")])
def test_an_order_that_comes_after_the_end_of_the_run_ends_at_once(
    order: tuple[str, ...], over: str, tmp_path: Path
) -> None:
    node = MemoryNode(leading("beat"), obedient=False)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = asyncio.create_task(ctl(path, *order, "beat"))
            await until(lambda: bool(node.orders))
            node.become(
                "beat",
                program("beat", epoch=7, reason="next run at noon", finished=over == "finished", idle=over == "idle"),
            )
            done = await asked
        assert (done.code, done.err) == (
            1,
            f"highlanderctl: {order[0]} beat: beat has ended, and is not begun again: next run at noon\n",
        )

    run(main)


def test_a_drain_without_postgresql_names_what_it_needs_and_what_works_without(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"))
    node.unanswered = Unanswered("PostgreSQL does not answer: connection refused")

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            done = await ctl(path, "drain")
        assert (done.code, done.out) == (1, "")
        assert done.err == (
            "highlanderctl: PostgreSQL does not answer: connection refused; a drain has to be written into the ledger, "
            "and perhaps was not: see 'highlanderd --doctor', and order it again once PostgreSQL answers; until then, "
            "'systemctl stop highlanderd' on a node ends what it leads\n"
        )
        assert node.orders == []

    run(main)


def test_an_order_that_was_written_stands_when_postgresql_goes_away(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"), obedient=False)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = asyncio.create_task(ctl(path, "drain", "--force", "--timeout", "0.5"))
            await until(lambda: node.orders == [("drain", "web-1")])
            node.unanswered = Unanswered("PostgreSQL does not answer: no session")
            done = await asked
        assert done.code == 7
        assert done.err == (
            "highlanderctl: web-1 still leads programs after 0.5 s, as far as is known: PostgreSQL does not answer: no "
            "session. The order stands; see 'highlanderctl cluster'\n"
        )

    run(main)


def test_a_session_that_is_lost_for_a_moment_refuses_no_order_and_ends_no_wait(tmp_path: Path) -> None:
    class Hiccup(MemoryNode):
        asked = 0

        async def cluster(self) -> ClusterOverview:
            self.asked += 1
            if self.asked % 2:
                raise Unanswered("PostgreSQL does not answer: no session")
            return await super().cluster()

    node = Hiccup(leading("beat"), obedient=False)
    node.migration = replace(node.migration, version=3)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = asyncio.create_task(ctl(path, "drain"))
            await until(lambda: node.orders == [("drain", "web-1")])
            node.become("beat", program("beat", "waiting"))
            assert (await asked).code == 0

    run(main)


def test_a_stop_says_that_another_node_leads_now(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"), obedient=False)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = asyncio.create_task(ctl(path, "stop", "beat"))
            await until(lambda: bool(node.orders))
            node.become("beat", program("beat", "stopped", want="stop"))
            surveys = node.surveys
            await until(lambda: node.surveys > surveys)
            node.become("beat", program("beat", "stopped", want="stop", leader="web-3"))
            done = await asked
        assert (done.code, done.out) == (0, "beat: stopped on this node; led by web-3 now\n")

    run(main)


def test_a_stop_says_that_no_node_leads_now(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            done = await ctl(path, "stop", "beat")
        assert (done.code, done.out) == (0, "beat: stopped on this node; no node leads it now\n")

    run(main)


def test_a_stop_while_postgresql_is_away_does_not_say_that_no_node_leads(tmp_path: Path) -> None:
    node = MemoryNode(program("beat"), obedient=False)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = asyncio.create_task(ctl(path, "stop", "beat"))
            await until(lambda: bool(node.orders))
            node.become("beat", program("beat", "stopped", want="stop", connected=False))
            done = await asked
        said = "beat: stopped on this node; PostgreSQL does not say who leads it\n"
        assert (done.code, done.out) == (0, said)

    run(main)


def test_all_of_another_node_are_those_that_it_has(tmp_path: Path) -> None:
    node = MemoryNode(program("beat"), program("bot"))
    beat, bot = node.overview.programs
    bot = replace(bot, leader=None, candidates=("web-1",), unable=())
    node.overview = replace(node.overview, programs=(beat, bot), by_name={"beat": beat, "bot": bot})

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            assert (await ctl(path, "start", "all", "--on", "web-2")).code == 0
            assert [order[:4] for order in node.orders] == [("relay", "web-2", "start", "beat")]
            none = await ctl(path, "start", "bo*", "--on", "web-2")
            assert (none.code, "web-2 has none of these programs: bot" in none.err) == (4, True)

    run(main)


def test_an_order_for_this_node_on_what_only_others_have_names_them(tmp_path: Path) -> None:
    node = MemoryNode(program("beat"))
    [beat] = node.overview.programs
    far = replace(beat, name="far", leader="web-3", candidates=("web-2",), unable=())
    node.overview = replace(node.overview, programs=(beat, far), by_name={"beat": beat, "far": far})

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            for verb in ("start", "stop"):
                done = await ctl(path, verb, "far")
                said = "no program 'far' is configured on this node; it is on web-2, web-3, so add --on web-2"
                assert (done.code, said in done.err) == (4, True), done
            unknown = await ctl(path, "start", "fra")
            assert (unknown.code, "it has beat" in unknown.err) == (4, True), unknown
        assert node.orders == []

    run(main)


def test_a_release_to_a_node_is_done_when_that_node_leads(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"), obedient=False)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = asyncio.create_task(post(path, "/v1/programs/beat/release", {"wait": True, "to": "web-3"}))
            await until(lambda: bool(node.orders))
            node.become("beat", program("beat", reason="reserved for web-3"))
            surveys = node.surveys
            await until(lambda: node.surveys > surveys)
            assert not asked.done()
            node.become("beat", program("beat", leader="web-3", epoch=8))
            assert (await asked)[1]["program"]["leader"] == "web-3"

    run(main)


def test_a_release_to_a_node_fails_when_another_one_leads_instead(tmp_path: Path) -> None:
    elsewhere = program("beat", leader="web-2", epoch=8)
    assert refused(leading("beat"), "release", tmp_path, elsewhere, to="web-3") == (
        "beat was released, but web-2 leads it now, not web-3"
    )


@pytest.mark.parametrize("verb", ["start", "restart"])
def test_a_file_that_was_edited_since_it_was_loaded_is_warned_of_once(tmp_path: Path, verb: str) -> None:
    node = MemoryNode(leading("beat"), leading("relay"))
    node.edited_files = ("/etc/highlander.toml",)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            done = await ctl(path, verb, "all")
        said = "/etc/highlander.toml has changed since it was loaded; 'highlanderctl reload' applies it"
        assert (done.code, done.err) == (0, f"warning: {said}\n")

    run(main)


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("web-5", "web-5 could not lead beat now: it does not have it; these could: web-2, web-3"),
        ("web-4", "web-4 could not lead beat now: drained by ann; these could: web-2, web-3"),
    ],
)
def test_a_release_to_a_node_that_could_not_lead_needs_force(tmp_path: Path, to: str, said: str) -> None:
    node = MemoryNode(leading("beat"))
    node.migration = replace(node.migration, version=3)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            done = await ctl(path, "release", "beat", "--to", to)
            assert (done.code, node.orders) == (1, [])
            assert done.err == f"highlanderctl: release beat: {said}; use --force to do it all the same\n"
            code, answer = await post(path, "/v1/programs/beat/release", {"to": to})
            assert (code, answer["error"]["code"]) == (409, "needs_force")
            assert (await ctl(path, "release", "beat", "--to", to, "--force", "--no-wait")).code == 0
        assert node.orders == [("release", "beat", to, 30.0)]

    run(main)


def test_a_release_to_a_node_that_never_runs_it_is_refused_also_with_force(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"))
    node.barred = {("beat", "web-2")}

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            for force in ((), ("--force",)):
                done = await ctl(path, "release", "beat", "--to", "web-2", *force)
                said = 'the key "never" names web-2; remove it there, and say highlanderctl reload\n'
                assert (done.code, done.err) == (1, f"highlanderctl: release beat: web-2 never runs beat: {said}")
        assert node.orders == []

    run(main)


def test_a_node_that_nobody_knows_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"))
    node.migration = replace(node.migration, version=3)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            orders = ("release beat --to", "drain", "stop beat --on", "start all --on", "restart be* --on")
            for words in orders:
                done = await ctl(path, *words.split(), "wbe-2")
                assert (words, done.code, node.orders) == (words, 4, [])
                assert done.err.endswith("the ledger knows no node 'wbe-2'; it has web-1, web-2, web-3, web-4, web-5\n")

    run(main)


@pytest.mark.parametrize("verb", ["release", "stop"])
def test_an_order_that_no_other_node_could_follow_needs_force(tmp_path: Path, verb: str) -> None:
    node = MemoryNode(leading("beat"))
    node.migration = replace(node.migration, version=3)
    alone = replace(node.overview.by_name["beat"], candidates=())
    node.overview = replace(node.overview, by_name={"beat": alone})

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            done = await ctl(path, verb, "beat")
            assert (done.code, node.orders) == (1, [])
            assert "no other node could lead beat now (web-4: drained by ann); use --force" in done.err
            node.unanswered = HighlanderError("PostgreSQL does not answer")
            done = await ctl(path, verb, "beat")
            assert (done.code, node.orders) == (1, [])
            assert "cannot tell which node could lead beat: PostgreSQL does not answer" in done.err
            node.become("beat", program("beat", "waiting"))
            assert (await ctl(path, "stop", "beat")).code == 0, "nothing runs here that another node would have to lead"

    run(main)


def test_reopening_says_whether_there_was_anything_to_open_and_what_has_failed(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"), program("idle"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            assert await post(path, "/v1/programs/beat/reopen", {}) == (200, {"reopened": True})
            assert await post(path, "/v1/programs/idle/reopen", {}) == (200, {"reopened": False})
            assert node.orders == [("reopen", "beat"), ("reopen", "idle")]
            assert (await post(path, "/v1/programs/nobody/reopen", {}))[0] == 404
            node.trouble = HighlanderError("cannot open /var/log/beat: Permission denied")
            code, answer = await post(path, "/v1/programs/beat/reopen", {})
        assert (code, answer["error"]["message"]) == (409, "cannot open /var/log/beat: Permission denied")

    run(main)


# ----------------------------------------------------------------------------------------------- orders on whole nodes


def test_a_reload_that_waits_is_done_when_what_it_restarts_runs_again(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"), leading("relay"))
    node.restarted = ("beat", "gone")

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            assert (await post(path, "/v1/reload", {}))[0] == 200
            asked = asyncio.create_task(post(path, "/v1/reload", {"wait": True}))
            await until(lambda: len(node.orders) == 2)
            left = program("beat", "draining", want="stop", epoch=7)
            steps = (left, None, program("beat"), leading("beat", 8, ready=False))
            for step in steps:
                node.become("beat", step)
                await asyncio.sleep(0.1)
                assert not asked.done()
            node.become("beat", leading("beat", 8))
            assert (await asked)[0] == 200

    run(main)


def test_a_reload_that_waits_is_done_when_it_has_ended_a_run_that_is_not_repeated(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"))
    node.restarted = ("beat",)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = asyncio.create_task(post(path, "/v1/reload", {"wait": True}))
            await until(lambda: bool(node.orders))
            node.become("beat", program("beat", epoch=7, idle=True))
            assert (await asked)[0] == 200

    run(main)


LED = leading("new", 1)
FAILED = LastExit("2026-01-02T03:04:05Z", 1, 1, None, success=False)
RESTS = (program("new", idle=True), program("new", finished=True), program("new", "stopped", want="stop"))


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (LED, 200),
        (program("new", leader="web-2"), 200),
        *((one, 200) for one in RESTS),
        (program("new", "backoff", failures=1), 409),
        (program("new", finished=True, epoch=1, last_exit=FAILED), 409),
    ],
)
def test_a_reload_that_waits_is_done_when_what_it_adds_runs_anywhere_or_is_not_to_run_now(
    tmp_path: Path, end: ProgramStatus, code: int
) -> None:
    node = MemoryNode(leading("beat"))
    node.added = ("new",)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = asyncio.create_task(post(path, "/v1/reload", {"wait": True}))
            await until(lambda: bool(node.orders))
            await asyncio.sleep(0.1)  # there is no such program yet
            for step in (program("new"), leading("new", 1, ready=False)):
                node.become("new", step)
                await asyncio.sleep(0.1)
                assert not asked.done()
            node.become("new", end)
            assert (await asked)[0] == code

    run(main)


def test_a_reload_that_waits_fails_with_the_child_that_it_starts(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"))
    node.restarted = ("beat",)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = asyncio.create_task(ctl(path, "reload", "--wait"))
            await until(lambda: bool(node.orders))
            node.become("beat", program("beat", "backoff", epoch=8, failures=1, reason="exited with status 1"))
            assert "beat failed: exited with status 1" in (await asked).err
            assert (await asked).code == 1
            assert (await ctl(path, "reload")).code == 0, "who does not wait is told nothing of it"

    run(main)


def test_a_resume_is_done_when_the_daemon_has_heard_of_it(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            mistyped = await ctl(path, "resume", "web-4", "web4")
            assert (mistyped.code, node.orders) == (4, []), "none is resumed in silence"
            done = await ctl(path, "resume", "web-4", "--timeout", "0.2")
            assert (done.code, done.out) == (7, "")
            assert "web-4 does not know of the resume yet after 0.2 s. The order stands" in done.err
            assert (await ctl(path, "resume", "web-4", "--no-wait")).out == "web-4: resumed\n"
            asked = asyncio.create_task(ctl(path, "resume", "web-4"))
            await until(lambda: len(node.orders) == 3)
            beat = replace(node.overview.by_name["beat"], unable=())
            node.overview = ClusterOverview(node.overview.nodes, (beat,), {"beat": beat})
            assert (await asked).code == 0

    run(main)


def test_a_shutdown_waits_for_the_daemon_s_end(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            done = await ctl(path, "shutdown", "--timeout", "0.2")
            assert (done.code, done.out) == (7, "web-1: releasing all programs, then ending\n")
            assert "web-1 still releases programs after 200ms. The order stands" in done.err
            asked = asyncio.create_task(ctl(path, "shutdown"))
            await until(lambda: len(node.orders) == 2)
        assert (await asked).code == 0

    run(main)

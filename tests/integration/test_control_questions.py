"""Claims about history, is-leading and wait against the real socket: what they answer, and what they exit with."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable
from pathlib import Path

import pytest

from highlanderd.core.terms import Former, PastTerm
from highlanderd.errors import HighlanderError, Unanswered
from highlanderd.structs import replace
from tests.support.memory_node import Ended, MemoryNode, ctl, leading, program, run, serving
from tests.support.wait import until

ROOT = Path(__file__).parents[2]
FIRST = PastTerm(
    "beat", 1, "a", "2026-01-02T03:04:05.678Z", "2026-01-02T04:04:05.678Z", 3600.0, "released", former=None, gap=None
)
SECOND = PastTerm(
    "beat", 2, "b", "2026-01-02T04:04:05.690Z", None, 60.0, None, former=Former(1, "a", "released"), gap=0.012
)
EARLY = replace(SECOND, began="2026-01-02T04:04:03.678Z", gap=-2.0)


def remembering(*terms: PastTerm) -> MemoryNode:
    node = MemoryNode(leading("beat"), program("relay", leader="web-2", epoch=3))
    node.terms = terms
    return node


# ------------------------------------------------------------------------------------------------------------ history


def test_history_is_a_table_with_the_newest_term_last(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(remembering(FIRST, SECOND), tmp_path) as path:
            asked = await ctl(path, "history", "beat")
        assert (asked.code, asked.err) == (0, "")
        first, second = asked.out.splitlines()[1:]
        assert re.fullmatch(r"beat     a     2026-01-02 03:04:05  1h +-     released", first)
        assert re.fullmatch(r"beat     b     2026-01-02 04:04:05  1m +12ms  under way", second), "by the server's clock"

    run(main)


def test_history_as_json_has_every_key_that_the_reference_names(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(remembering(FIRST, SECOND), tmp_path) as path:
            answer = json.loads((await ctl(path, "history", "--json")).out)
        unknown = dict.fromkeys(("exit_status", "exit_signal", "author", "reason", "scheduled"))
        times = {"from": FIRST.began, "to": FIRST.ended}
        first = {
            "program": "beat",
            "epoch": 1,
            "node": "a",
            **times,
            "led": 3600.0,
            "gap": None,
            "cause": "released",
            **unknown,
        }
        times = {"from": SECOND.began, "to": None}
        second = {
            "program": "beat",
            "epoch": 2,
            "node": "b",
            **times,
            "led": 60.0,
            "gap": 0.012,
            "cause": None,
            **unknown,
        }
        assert answer == {"terms": [first, second], "skipped": []}

    run(main)
    text = (ROOT / "docs/reference/control-api.md").read_text("utf-8").split("## History")[1].split("\n## ")[0]
    keys = "program epoch node from to led gap cause exit_status exit_signal author reason scheduled skipped"
    keys += " times recorded since gaps longest overlaps unwritten epochs"
    assert [key for key in keys.split() if f"`{key}`" not in text] == []


def test_only_so_many_terms_are_read(tmp_path: Path) -> None:
    node = remembering(*(replace(FIRST, epoch=epoch) for epoch in range(1, 200)))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            terms = json.loads((await ctl(path, "history", "--json")).out)["terms"]
            assert [term["epoch"] for term in terms] == list(range(100, 200))
            terms = json.loads((await ctl(path, "history", "--json", "-n", "2")).out)["terms"]
            assert [term["epoch"] for term in terms] == [198, 199]
            assert "\n199 terms since" in "\n" + (await ctl(path, "history", "--summary")).out
            for number in ("0", "-1", "1001"):
                asked = await ctl(path, "history", f"-n={number}")
                assert (asked.code, asked.out) == (2, ""), number
                assert "is no number of terms: name 1 to 1000" in asked.err

    run(main)


def test_a_summary_without_overlaps_certifies_that(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(remembering(FIRST, SECOND), tmp_path) as path:
            asked = await ctl(path, "history", "--summary")
            assert (asked.code, asked.err) == (0, "")
            assert asked.out.splitlines() == [
                "PROGRAM  TERMS  LED    AFTER     GAPS  LONGEST",
                "beat     2      1h 1m  released  1     12ms",
                "2 terms since 2026-01-02 03:04:05 UTC; no two of one lock id overlap",
            ]
            answer = json.loads((await ctl(path, "history", "--summary", "--json")).out)
            assert (answer["overlaps"], answer["unwritten"]) == ([], [])

    run(main)


def test_a_summary_exits_with_one_where_a_gap_was_longer_than_it_may_be(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(remembering(FIRST, SECOND), tmp_path) as path:
            assert (await ctl(path, "history", "--summary", "--max-gap", "0.012")).code == 0
            asked = await ctl(path, "history", "--max-gap", "0.01")
            assert asked.code == 1
            assert asked.out.splitlines()[0] == "PROGRAM  TERMS  LED    AFTER     GAPS  LONGEST"
            assert asked.err == (
                "highlanderctl: beat: no node led it for 12ms after a term that ended as released: more than 0.01 s\n"
            )
            assert (await ctl(path, "history", "--max-gap", "soon")).code == 2

    run(main)


def test_a_summary_says_which_gaps_it_leaves_out_and_which_epochs_no_line_tells_of(tmp_path: Path) -> None:
    former = Former(1, "a", "released", "2026-01-01T04:04:00.000Z")
    late = replace(SECOND, epoch=3, former=former, gap=86400.0, scheduled="2026-01-02T04:04:00.000Z", late=2.5)

    async def main() -> None:
        async with serving(remembering(FIRST, late), tmp_path) as path:
            asked = await ctl(path, "history", "--summary")
            assert asked.code == 1
            _, gaps, verdict, schedule = asked.out.splitlines()
            assert verdict.endswith("; no two of one lock id overlap, as far as the history goes")
            assert gaps.split()[-3:] == ["released", "1", "2.5s"]
            assert schedule == "gaps of beat are counted from the scheduled time on"
            assert "beat: the history lacks 1 term just before epoch 3 on b, " in asked.err

    run(main)


@pytest.mark.parametrize("output", [(), ("--json",)])
def test_a_summary_with_an_overlap_exits_with_one_and_names_both_terms(tmp_path: Path, output: tuple[str, ...]) -> None:
    async def main() -> None:
        async with serving(remembering(FIRST, EARLY), tmp_path) as path:
            asked = await ctl(path, "history", "--summary", *output)
        assert asked.code == 1
        assert asked.out
        assert asked.err == (
            "highlanderctl: terms of beat overlap by the ledger's own times: epoch 2 on b began at 2026-01-02 04:04:03 "
            "UTC, 2.0s before epoch 1 on a ended. Either two nodes led at once, or the server's clock was set back\n"
        )

    run(main)


def test_history_without_postgresql_is_a_sentence_and_exits_with_one(tmp_path: Path) -> None:
    node = remembering(FIRST)
    node.unanswered = HighlanderError("PostgreSQL does not answer: connection refused")

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            for more in ((), ("--summary",), ("--json",)):
                asked = await ctl(path, "history", *more)
                assert (asked.code, asked.out, asked.err) == (1, "", f"highlanderctl: {node.unanswered}\n")
            node.unanswered = None
            assert (await ctl(path, "history", "baet")).code == 4

    run(main)


@pytest.mark.parametrize("question", ["cluster", "history"])
def test_where_postgresql_does_not_answer_it_is_said_what_does(question: str, tmp_path: Path) -> None:
    node = remembering(FIRST)
    node.unanswered = Unanswered("PostgreSQL does not answer: no session")

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, question)
            assert (asked.code, asked.out) == (1, "")
            assert asked.err == (
                f"highlanderctl: {node.unanswered}; 'highlanderd --doctor' says why, and 'highlanderctl status' what "
                "this node knows by itself\n"
            )

    run(main)


# --------------------------------------------------------------------------------------------------------- is-leading


def test_is_leading_answers_by_its_exit_code(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"), program("relay", leader="web-2", epoch=3), program("web", "draining", epoch=7))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, "is-leading", "beat")
            assert (asked.code, asked.out, asked.err) == (0, "beat: led by web-1, which is this node, epoch 7\n", "")
            asked = await ctl(path, "is-leading", "relay")
            assert (asked.code, asked.out, asked.err) == (3, "relay: waiting on this node, led by web-2\n", "")
            asked = await ctl(path, "is-leading", "web")
            assert (asked.code, asked.out) == (3, "web: draining on this node, no node leads it\n")
            for name in ("beat", "relay"):
                asked = await ctl(path, "is-leading", "-q", name)
                assert (asked.code, asked.out, asked.err) == (0 if name == "beat" else 3, "", "")
            assert (await ctl(path, "is-leading", "b*")).code == 4
        assert (await ctl(path, "is-leading", "beat")).code == 5

    run(main)


def test_a_leader_that_holds_on_without_postgresql_still_leads(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat", connected=False))
    node.postgres = replace(node.postgres, connected=False, trouble="connection refused")

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            assert (await ctl(path, "is-leading", "beat")).code == 0

    run(main)


# --------------------------------------------------------------------------------------------------------------- wait


async def meanwhile(waiting: Awaitable[Ended], node: MemoryNode) -> asyncio.Future[Ended]:
    """Return a command that has begun to wait for a change of ``node``."""
    under_way = asyncio.ensure_future(waiting)
    await until(lambda: bool(node._waiting))
    return under_way


@pytest.mark.parametrize(
    ("state", "after", "said"),
    [
        ("leading", leading("beat"), "led by web-1, which is this node, epoch 7"),
        ("leading", program("beat", leader="web-2", epoch=9), "waiting on this node, led by web-2"),
        ("stopped", program("beat", "stopped", want="stop"), "stopped on this node, no node leads it"),
    ],
)
def test_wait_returns_once_a_program_is_as_wanted(tmp_path: Path, state: str, after: object, said: str) -> None:
    node = MemoryNode(program("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            waiting = await meanwhile(ctl(path, "wait", "beat", "--for", state), node)
            assert not waiting.done()
            node.become("beat", after)  # type: ignore[arg-type]
            asked = await waiting
            assert (asked.code, asked.out, asked.err) == (0, f"beat: {said}\n", "")

    run(main)


def test_wait_returns_once_each_of_several_has_been_as_wanted(tmp_path: Path) -> None:
    node = MemoryNode(program("beat"), leading("bot"), program("relay"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            waiting = await meanwhile(ctl(path, "wait", "b*", "--for", "leading"), node)
            assert not waiting.done()
            node.become("beat", leading("beat"))
            asked = await waiting
            led = "led by web-1, which is this node, epoch 7"
            assert (asked.code, asked.out) == (0, f"beat: {led}\nbot: {led}\n")
            both = json.loads((await ctl(path, "wait", "bot", "beat", "--for", "leading", "--json")).out)
            assert [one["name"] for one in both["programs"]] == ["bot", "beat"]
            late = await ctl(path, "wait", "all", "--for", "leading", "--timeout", "300ms")
            assert (late.code, "relay is not leading after 300ms" in late.err) == (7, True)
            assert (await ctl(path, "wait", "x*", "--for", "leading")).code == 4

    run(main)


def test_a_program_that_drains_here_is_not_led_any_more(tmp_path: Path) -> None:
    node = MemoryNode(program("beat", "draining", leader="web-1", epoch=7))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, "wait", "beat", "--for", "leading", "--timeout", "200ms")
            assert (asked.code, asked.out) == (7, "")

    run(main)


def test_finished_is_what_the_last_term_of_any_node_says(tmp_path: Path) -> None:
    node = remembering(FIRST)
    node.become("beat", program("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            waiting = await meanwhile(ctl(path, "wait", "beat", "--for", "finished"), node)
            assert not waiting.done()
            ended = replace(SECOND, ended="2026-01-02T05:05:05Z", cause="finished")
            node.terms = (FIRST, ended)
            node.become("beat", program("beat"))
            asked = await waiting
            assert (asked.code, asked.out) == (0, "beat: finished on b, epoch 2\n"), "how is not known"
            node.terms = (FIRST, replace(ended, exit_status=3))
            asked = await ctl(path, "wait", "beat", "--for", "finished")
            assert (asked.code, asked.out) == (0, "beat: finished on b (status 3), epoch 2\n")
            node.terms = (FIRST, replace(ended, exit_signal="SIGKILL"))
            asked = await ctl(path, "wait", "beat", "--for", "finished")
            assert (asked.code, asked.out) == (0, "beat: finished on b (killed by SIGKILL), epoch 2\n")
            node.become("beat", program("beat", leader="web-2", epoch=3))
            assert (await ctl(path, "wait", "beat", "--for", "finished", "--timeout", "100ms")).code == 7

    run(main)


def test_what_only_other_nodes_have_is_waited_for_there(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"))
    [known] = node.overview.programs
    led = replace(known, name="relay", leader="web-2", ready=False)
    node.overview = replace(node.overview, programs=(led,), by_name={"relay": led})

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, "wait", "relay", "--for", "leading")
            assert (asked.code, asked.out) == (0, "relay: led by web-2, epoch 7\n")
            late = await ctl(path, "wait", "relay", "--for", "ready", "--timeout", "100ms")
            assert (late.code, "led by web-2" in late.err) == (7, True)
            here = await ctl(path, "wait", "relay", "--for", "stopped")
            assert (here.code, "is configured on this node" in here.err) == (4, True)
            nowhere = await ctl(path, "wait", "rely", "--for", "leading")
            assert (nowhere.code, "no node has a program 'rely'" in nowhere.err) == (4, True)

    run(main)


def test_wait_ends_with_seven_and_says_how_things_stand(tmp_path: Path) -> None:
    node = MemoryNode(program("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, "wait", "beat", "--for", "leading", "--timeout", "300ms")
            assert (asked.code, asked.out) == (7, "")
            assert asked.err == (
                "highlanderctl: beat is not leading after 300ms: waiting on this node, no node leads it\n"
            )
        asked = await ctl(path, "wait", "beat", "--for", "leading", "--timeout", "300ms")
        assert asked.code == 7
        assert "no daemon is running here" in asked.err

    run(main)


def test_wait_waits_through_a_daemon_that_is_away(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "control.sock"
        waiting = asyncio.ensure_future(ctl(path, "wait", "beat", "--for", "leading"))
        node = MemoryNode(program("beat"))
        async with serving(node, tmp_path):
            await until(lambda: bool(node._waiting))
        assert not waiting.done()
        async with serving(MemoryNode(leading("beat")), tmp_path):
            asked = await waiting
        assert (asked.code, asked.err) == (0, "")

    run(main)


def test_what_waiting_does_not_cure_ends_it_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(MemoryNode(program("beat")), tmp_path) as path:
            assert (await ctl(path, "wait", "baet", "--for", "leading")).code == 4

    run(main)


# ----------------------------------------------------------------------------------------------------------- explain


def test_explain_takes_many_names_and_globs(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(MemoryNode(leading("beat"), program("relay", leader="web-2", epoch=3)), tmp_path) as path:
            one = await ctl(path, "explain", "beat", "--json")
            glob = await ctl(path, "explain", "b*", "--json")
            both = await ctl(path, "explain", "all")
            rows = await ctl(path, "explain", "relay", "beat", "-o", "tsv")
            none = await ctl(path, "explain", "beat", "baet")
        assert json.loads(one.out)["program"] == "beat"
        assert [found["program"] for found in json.loads(glob.out)["programs"]] == ["beat"]
        assert [line for line in both.out.splitlines() if "is led by" in line] == [
            "beat is led by web-1, which is this node",
            "relay is led by web-2",
        ]
        assert {line.split("\t")[0] for line in rows.out.splitlines()} == {"beat", "relay"}
        assert (none.code, none.out) == (4, "")
        assert "no node has a program 'baet'; there are beat, relay" in none.err

    run(main)


def test_the_cluster_between_tabs_is_two_tables_with_an_empty_line_between(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(MemoryNode(leading("beat")), tmp_path) as path:
            lines = (await ctl(path, "cluster", "-o", "tsv")).out.splitlines()
        programs, nodes = lines[: lines.index("")], lines[lines.index("") + 1 :]
        assert (programs[0].split("\t")[0], nodes[0].split("\t")[0]) == ("PROGRAM", "NODE")
        assert [line.split("\t")[0] for line in nodes[1:]] == ["web-1", "web-2", "web-3", "web-4", "web-5"]

    run(main)

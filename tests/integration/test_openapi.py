"""Claims about the OpenAPI document: what it says of paths, parameters, bodies and answers is what the daemon does."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import TypeAdapter

from highlanderd.core.cluster import Held
from highlanderd.core.occurrences import Occurrence
from highlanderd.core.status import LastExit, OutputLine, Process, Usage
from highlanderd.core.terms import Former, PastTerm
from tests.support.control import client, get, post
from tests.support.memory_node import MemoryNode, leading, program, run, serving

ROOT = Path(__file__).parents[2]
DOCUMENT = json.loads((ROOT / "docs/reference/openapi.json").read_text("utf-8"))
AT = "2026-01-02T03:04:05.678Z"


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        yield from ((method, path, item[method]) for method in ("get", "post") if method in item)


def of_socket(method: str) -> list[tuple[str, dict[str, Any]]]:
    return [(path, one) for each, path, one in operations() if each == method and path.startswith("/v1/")]


def filled(path: str) -> str:
    return path.replace("{name}", "beat")


@pytest.fixture
def openapi(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "docs/generate")
    return importlib.import_module("openapi")


def full_node() -> MemoryNode:
    """Return a node whose snapshots have every part that there may be."""
    held = Held("uid 0 on node a", "new disk", AT)
    usage = Usage(1.5, 4096, 1, 1, open_files=None, oom_kills=0)
    last = LastExit(AT, 6, None, "SIGKILL")
    beat = leading("beat", last_exit=last, usage=usage, stopped=held, unkillable=(Process(1, 2, "sh"),))
    node = MemoryNode(beat, program("relay"))
    first = PastTerm("beat", 1, "a", AT, AT, 3600.0, "released", former=None, gap=None)
    node.terms = (first, PastTerm("beat", 2, "b", AT, None, 60.0, None, former=Former(1, "a", "released"), gap=-1.0))
    node.remembered = [Occurrence(AT, "drained", "a", author="ann", reason="new disk")]
    node.written = {"beat": [OutputLine(1, 1.5, "stdout", "tick")]}
    return node


def test_every_reference_leads_somewhere_and_every_operation_has_a_name_of_its_own() -> None:
    for found in re.findall(r'"#/components/(\w+)/(\w+)"', json.dumps(DOCUMENT)):
        assert found[1] in DOCUMENT["components"][found[0]]
    names = [one["operationId"] for _, _, one in operations()]
    assert len(names) == len(set(names)) > 30
    assert all(one["description"] for _, _, one in operations())


def test_the_document_has_every_path_that_the_daemon_routes(openapi: ModuleType) -> None:
    endpoints = importlib.import_module("generate").endpoints("/")
    assert {(method.upper(), path) for method, path, _ in operations()} == set(endpoints)
    assert openapi.ANSWERS.keys() <= {f"{method} {path}" for method, path in endpoints}


def test_a_body_may_hold_what_the_document_says_and_nothing_else(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(MemoryNode(leading("beat")), tmp_path) as path:
            for resource, one in of_socket("post"):
                schema = one["requestBody"]["content"]["application/json"]["schema"]
                code, answer = await post(path, filled(resource), {"nosuch": 1})
                said = answer["error"]["message"].partition("this request takes ")[2]
                assert (code, said) == (400, ", ".join(schema["properties"]) or "no fields"), resource

    run(main)


def test_a_body_must_hold_what_the_document_requires(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(MemoryNode(leading("beat")), tmp_path) as path:
            for resource, one in of_socket("post"):
                required = one["requestBody"]["content"]["application/json"]["schema"].get("required", [])
                code, answer = await post(path, filled(resource), {})
                assert (code == 400) == bool(required), resource
                assert all(name in answer["error"]["message"] for name in required)

    run(main)


def test_each_parameter_of_a_query_is_looked_at(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(MemoryNode(leading("beat")), tmp_path) as path:
            for resource, one in of_socket("get"):
                for parameter in one["parameters"]:
                    if parameter["in"] == "query":
                        code, _ = await get(path, f"{filled(resource)}?{parameter['name']}=nosuch&follow=true")
                        assert code in (400, 404), (resource, parameter)

    run(main)


def test_each_answer_is_what_the_document_says(tmp_path: Path, openapi: ModuleType) -> None:
    async def main() -> None:
        async with serving(full_node(), tmp_path) as path, client(path) as session:
            for resource, _ in of_socket("get"):
                model = openapi.ANSWERS[f"GET {resource}"]
                async with session.get(filled(resource)) as response:
                    lines = (await response.text()).splitlines()
                assert response.status == 200
                assert lines, resource
                for line in lines:
                    answer = json.loads(line)
                    if resource == "/v1/programs/{name}":
                        schemas = DOCUMENT["components"]["schemas"]
                        both = {key for name in ("ProgramStatus", "ProgramDetail") for key in schemas[name]["required"]}
                        assert answer.keys() == both
                        continue
                    adapter = TypeAdapter(model)
                    assert adapter.dump_python(adapter.validate_python(answer), mode="json") == answer, resource
            async with session.get("/v1/history?summary=true") as response:
                answer = await response.json()
                assert TypeAdapter(openapi.Summary).validate_python(answer) == answer
                assert answer["overlaps"]

    run(main)


def test_each_order_is_answered_as_the_document_says(tmp_path: Path, openapi: ModuleType) -> None:
    bodies: dict[str, dict[str, object]] = {
        "/v1/programs/{name}/signal": {"signal": "HUP"},
        "/v1/ledger/lease": {"lease": 20},
        "/v1/maintenance": {"on": True, "for": 60},
    }

    async def main() -> None:
        async with serving(full_node(), tmp_path) as path:
            for resource, _ in of_socket("post"):
                code, answer = await post(path, filled(resource), bodies.get(resource, {}))
                assert code in (200, 409), (resource, answer)
                model = openapi.ANSWERS[f"POST {resource}"] if code == 200 else openapi.Refused
                adapter = TypeAdapter(model)
                assert adapter.dump_python(adapter.validate_python(answer), mode="json") == answer, resource

    run(main)

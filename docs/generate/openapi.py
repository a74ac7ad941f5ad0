"""The OpenAPI document of the control socket and of the TCP listener, from what the code routes, checks and answers.

Paths are those that the daemon routes, bodies are the fields that it takes, and answers are its snapshots. The words
come from the tables of ``docs/reference``. Only answers that no snapshot is the model of are written down here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import make_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, NotRequired

from msgspec import Struct
from msgspec.structs import fields
from pydantic import GetCoreSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema
from tables import first_sentence, member_docstrings
from typing_extensions import TypedDict

from highlanderd import __version__
from highlanderd.core import cluster, explanation, occurrences, status
from highlanderd.listeners.control import HTTP_STATUS
from highlanderd.listeners.fields import FIELDS, WANTED

REFERENCE: Final = Path(__file__).parents[1] / "reference"
PAGE: Final = REFERENCE / "openapi.json"

REF: Final = "#/components/schemas/"

Schema = dict[str, Any]


# ------------------------------------------------------------------------------------------------------------- answers


class Refusal(TypedDict):
    """Why a request was refused: a word for scripts, and a sentence for people."""

    code: str
    message: str


class Refused(TypedDict):
    """The answer to a request that was refused."""

    error: Refusal


class NowhereLed(TypedDict):
    """A program that was ordered everywhere, and that no node has any more."""

    name: str
    leader: None


class Ordered(TypedDict):
    """The program after an order; with ``everywhere`` as the cluster shows it."""

    program: status.ProgramStatus | cluster.ClusterProgram | NowhereLed
    warnings: NotRequired[list[str]]


class Cluster(TypedDict):
    """Every program and node of the cluster."""

    nodes: list[cluster.ClusterNode]
    programs: list[cluster.ClusterProgram]
    maintenance: status.MaintenanceStatus | None


class Explanations(TypedDict):
    """Why programs are led where they are, or nowhere."""

    programs: list[explanation.Explanation]


WrittenKey = TypedDict("WrittenKey", {"key": str, "value": Any, "toml": str, "from": str})


class Keys(TypedDict):
    """The keys of a program as they are in force."""

    program: str
    keys: list[WrittenKey]


class Line(TypedDict):
    """A line of a program; or, with ``line`` null, the number of those that were missed."""

    time: str
    program: str
    stream: str | None
    line: str | None
    missed: NotRequired[int]


Term = TypedDict(
    "Term",
    {
        "program": str,
        "epoch": int,
        "node": str,
        "from": str,
        "to": str | None,
        "led": float,
        "gap": float | None,
        "cause": str | None,
        "exit_status": int | None,
        "exit_signal": str | None,
        "author": str | None,
        "reason": str | None,
        "scheduled": str | None,
    },
)
SkippedTimes = TypedDict(
    "SkippedTimes",
    {
        "program": str,
        "from": str,
        "to": str,
        "times": int,
        "cause": str,
        "node": str,
        "recorded": str,
    },
)


class Terms(TypedDict):
    """The newest terms, the newest last."""

    terms: list[Term]


class History(Terms):
    """The newest terms, and the newest scheduled times that were skipped, the newest last."""

    skipped: list[SkippedTimes]


class Gaps(TypedDict):
    """The gaps before terms of a program, by the cause of the terms before them."""

    cause: str | None
    count: int
    longest: float | None


class Led(TypedDict):
    """What the terms of one program come to."""

    program: str
    terms: int
    led: float
    gaps: list[Gaps]
    scheduled: bool


TwoTerms = TypedDict(
    "TwoTerms",
    {
        "program": str,
        "epoch": int,
        "node": str,
        "from": str,
        "former_epoch": int | None,
        "former_node": str | None,
    },
)


class Overlap(TwoTerms):
    overlap: float | None


class Unwritten(TwoTerms):
    epochs: int


class Summary(TypedDict):
    """What many terms come to, those that overlap, and those before which epochs stand in no line."""

    terms: int
    since: str | None
    programs: list[Led]
    overlaps: list[Overlap]
    unwritten: list[Unwritten]


class Reload(TypedDict):
    """What a reload did, or would do."""

    dry_run: bool
    changes: list[str]
    warnings: list[str]
    restarted: list[str]
    added: list[str]


class Nodes(TypedDict):
    """Names of nodes."""

    nodes: list[str]


class Reopened(TypedDict):
    """Whether log files were opened anew."""

    reopened: bool


class Ending(TypedDict):
    """The node whose daemon ends."""

    node: str


ANSWERS: Final[Mapping[str, Any]] = {
    "GET /v1/status": status.NodeStatus,
    "GET /v1/programs/{name}": status.ProgramDetail,
    "GET /v1/programs/{name}/config": Keys,
    "GET /v1/programs/{name}/logs": Line,
    "GET /v1/logs": Line,
    "GET /v1/events": occurrences.Occurrence,
    "GET /v1/history": History | Summary,
    "GET /v1/history/{name}": History | Summary,
    "GET /v1/cluster": Cluster,
    "GET /v1/explain": Explanations,
    "GET /v1/explain/{name}": explanation.Explanation,
    "GET /v1/ledger": dict[str, Any],
    "POST /v1/ledger/lease": status.LeaseReport,
    "POST /v1/ledger/migrate": status.MigrationReport,
    "GET /v1/maintenance": status.LeaseReport,
    "POST /v1/maintenance": status.LeaseReport,
    "POST /v1/drain": Nodes,
    "POST /v1/resume": Nodes,
    "POST /v1/programs/{name}/reopen": Reopened,
    "POST /v1/reload": Reload,
    "POST /v1/renew": status.ReplacementReport,
    "POST /v1/shutdown": Ending,
    **{f"POST /v1/programs/{{name}}/{verb}": Ordered for verb in ("release", "start", "stop", "restart", "signal")},
    "GET /cluster": Cluster,
    "GET /history": Terms,
}
"""By method and path: the model of what is answered as JSON."""
STREAMS: Final = frozenset({"GET /v1/programs/{name}/logs", "GET /v1/logs", "GET /v1/events"})
"""Answers that are one object a line, and may go on."""
TEXTS: Final[Mapping[str, str]] = {"GET /": "text/html"}
"""Other answers that are not plain text."""

_FLAG: Final[Schema] = {"type": "boolean"}
_NAMES: Final[Schema] = {"type": "array", "items": {"type": "string"}}
QUERIES: Final[Mapping[str, Mapping[str, Schema]]] = {
    "/v1/status": {"wait": {"type": "number", "minimum": 0}, "usage": _FLAG},
    "/v1/programs/{name}/logs": {"n": {"type": "string"}, "follow": _FLAG},
    "/v1/logs": {"name": _NAMES, "n": {"type": "string"}, "follow": _FLAG},
    "/v1/events": {"follow": _FLAG, "snapshot": _FLAG},
    "/v1/history": {"name": _NAMES, "limit": {"type": "integer", "minimum": 1}, "summary": _FLAG},
    "/v1/history/{name}": {"limit": {"type": "integer", "minimum": 1}, "summary": _FLAG},
    "/v1/explain": {"name": _NAMES},
}
"""By path: what may be asked in its query."""

_KINDS: Final[Mapping[str, Schema]] = {
    "timeout": {"type": "number"},
    "for": {"type": "number"},
    "lease": {"type": "number"},
    "nodes": _NAMES,
    "signal": {"type": ["string", "integer"]},
    "node": {"type": "string"},
    "reason": {"type": "string"},
    "to": {"type": ["string", "null"]},
}
"""The types of a body's fields; the others are true or false."""
REQUIRED: Final[Mapping[str, tuple[str, ...]]] = {
    "/v1/programs/{name}/signal": ("signal",),
    "/v1/ledger/lease": ("lease",),
    "/v1/maintenance": ("on",),
}
"""The fields without which a body says nothing, by path."""


# ------------------------------------------------------------------------------------------------------------ document


def text(endpoints: Iterable[tuple[str, str]]) -> str:
    """Return the document about these endpoints."""
    schemas = _Schemas()
    paths: dict[str, Schema] = {}
    for method, path in endpoints:
        paths.setdefault(path, _servers(path))[method.lower()] = _operation(method, path, schemas)
    refused = {"description": _refusals(), "content": _json(schemas.of(Refused))}
    document = {
        "openapi": "3.1.1",
        "info": {
            "title": "highlanderd",
            "version": __version__,
            "description": "The control socket (paths below /v1) and the TCP listener of one node.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "http://d", "description": "the Unix socket of [control] socket; the host may be any"}],
        "paths": paths,
        "components": {"schemas": schemas.found, "responses": {"Refused": refused}},
    }
    return json.dumps(document, indent=1) + "\n"


def _servers(path: str) -> Schema:
    if path.startswith("/v1/"):
        return {}
    return {"servers": [{"url": "http://127.0.0.1:9841", "description": "[metrics] listen"}]}


def _operation(method: str, path: str, schemas: _Schemas) -> Schema:
    called, words = f"{method} {path}", described(method, path)
    operation: Schema = {"operationId": _identifier(method, path), "description": words}
    operation["parameters"] = _parameters(path)
    if method == "POST":
        operation["requestBody"] = {"content": _json(_body(path))}
    operation["responses"] = {"200": {"description": "done", "content": _content(called, schemas)}}
    if path.startswith("/v1/"):
        operation["responses"]["default"] = {"$ref": "#/components/responses/Refused"}
    elif path in ("/cluster", "/history"):
        operation["responses"]["503"] = {"$ref": "#/components/responses/Refused"}
    else:
        no = {"description": "no, and why", "content": _content(called, schemas)}
        operation["responses"] |= dict.fromkeys(re.findall(r"\b[45]\d\d\b", words), no)
    return operation


def _identifier(method: str, path: str) -> str:
    return "_".join([method.lower(), *re.findall(r"\w+", path)])


def described(method: str, path: str) -> str:
    """Return what the reference's table says of an endpoint, without links. Raises LookupError for a lack."""
    page = "control-api.md" if path.startswith("/v1/") else "metrics.md"
    for line in (REFERENCE / page).read_text("utf-8").splitlines():
        if line.startswith(f"| `{method} {path}` |"):
            words = line.removesuffix(" |").rpartition("| ")[2]
            return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", words)
    raise LookupError(f"{page} says nothing of {method} {path}")


def _parameters(path: str) -> list[Schema]:
    inside = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", path)
    ]
    asked = [{"name": name, "in": "query", "schema": schema} for name, schema in QUERIES.get(path, {}).items()]
    return inside + asked


def _body(path: str) -> Schema:
    properties = {name: {**_KINDS.get(name, _FLAG), "description": WANTED[name]} for name in FIELDS[path]}
    required = {"required": list(REQUIRED[path])} if path in REQUIRED else {}
    return {"type": "object", "properties": properties, "additionalProperties": False, **required}


def _content(called: str, schemas: _Schemas) -> Schema:
    if called not in ANSWERS:
        return {TEXTS.get(called, "text/plain"): {"schema": {"type": "string"}}}
    schema = schemas.of(ANSWERS[called])
    return {"application/x-ndjson": {"schema": schema}} if called in STREAMS else _json(schema)


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _refusals() -> str:
    """Return which status goes with which code."""
    return "; ".join(f"{number}: {code}" for code, number in HTTP_STATUS.items()) + "; 409: failed; 500: internal"


class _Schemas:
    """The schemas of answers, each of them once."""

    def __init__(self) -> None:
        self.found: dict[str, Schema] = {}

    def of(self, model: Any) -> Schema:
        """Return the schema of a model; the models that it is made of are found by reference."""
        if model is status.ProgramDetail:
            return self._detail()
        made = self._made(model)
        if "title" not in made or made.get("type") != "object":
            return made
        name = made["title"]
        self.found[name] = _worded(name, made)
        return {"$ref": f"{REF}{name}"}

    def _made(self, model: Any) -> Schema:
        made = TypeAdapter(model).json_schema(mode="serialization", ref_template=f"{REF}{{model}}")
        for name, schema in made.pop("$defs", {}).items():
            self.found[name] = _worded(name, schema)
        return made

    def _detail(self) -> Schema:
        """Return the fields of ProgramStatus and ProgramDetail side by side, as they are answered."""
        made = self._made(status.ProgramDetail)
        del made["properties"]["status"]
        made["required"].remove("status")
        self.found["ProgramDetail"] = _worded("ProgramDetail", made)
        both = ("ProgramStatus", "ProgramDetail")
        return {"allOf": [{"$ref": f"{REF}{name}"} for name in both]}


_MODULES: Final = (status, cluster, explanation, occurrences)


@cache
def _dataclass(kind: type[Struct]) -> type:
    """Return a struct as what pydantic makes a schema of."""
    found = [(field.name, field.type) for field in fields(kind)]
    return make_dataclass(kind.__name__, found, namespace={"__doc__": kind.__doc__})


def _schema(_cls: type, kind: type[Struct], handler: GetCoreSchemaHandler) -> CoreSchema:
    return handler.generate_schema(_dataclass(kind))


for _module in _MODULES:
    for _kind in vars(_module).values():
        if isinstance(_kind, type) and issubclass(_kind, Struct):
            _kind.__get_pydantic_core_schema__ = classmethod(_schema)  # type: ignore[attr-defined]


def _worded(name: str, schema: Schema) -> Schema:
    """Return a schema with the words of the model's docstrings. Every field of a snapshot is always there."""
    for one in schema["properties"].values():
        one.pop("title", None)
    kind = next((found for module in _MODULES if (found := getattr(module, name, None)) is not None), None)
    if not isinstance(kind, type) or not issubclass(kind, Struct):
        return schema
    meanings = dict(member_docstrings(kind))
    properties = schema["properties"]
    for field, one in properties.items():
        one.pop("default", None)
        if field in meanings:
            one["description"] = meanings[field]
    return {**schema, "description": first_sentence(kind.__doc__), "required": list(properties)}

"""The control socket's answers: from the node's snapshots to JSON.

Fields are only ever added, because people script against them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec import Struct, to_builtins
from msgspec.json import Encoder
from msgspec.json import format as laid_out

from highlanderd.config import WrittenKey, written
from highlanderd.core.cluster import ClusterOverview
from highlanderd.core.status import MaintenanceStatus, ProgramDetail

_ENCODER: Final = Encoder(enc_hook=str)


def facts_of(snapshot: Struct) -> dict[str, Any]:
    """Return the JSON of a snapshot: a program's or the node's status, a part of the cluster, or a report."""
    facts: dict[str, Any] = to_builtins(snapshot)
    return facts


def detail_facts(detail: ProgramDetail) -> dict[str, object]:
    """Return the JSON of ``GET /v1/programs/{name}``: the program's status, and what else is known."""
    facts = facts_of(detail)
    return {**facts.pop("status"), **facts}


def cluster_facts(overview: ClusterOverview, maintenance: MaintenanceStatus | None) -> dict[str, object]:
    """Return the JSON of ``GET /v1/cluster``."""
    return {
        "nodes": [facts_of(node) for node in overview.nodes],
        "programs": [facts_of(program) for program in overview.programs],
        "maintenance": maintenance and facts_of(maintenance),
    }


def config_facts(name: str, keys: Iterable[WrittenKey]) -> dict[str, object]:
    """Return the JSON of ``GET /v1/programs/{name}/config``."""
    found = [{"key": one.key, "value": one.value, "toml": written(one), "from": one.source} for one in keys]
    return {"program": name, "keys": found}


def encoded(facts: Struct | Mapping[str, object]) -> str:
    """Return facts as the text of an answer, with a line's end for people who use curl."""
    try:
        text = laid_out(_ENCODER.encode(facts), indent=0).decode()
    except UnicodeEncodeError:  # a name that is no UTF-8: JSON can say it, and msgspec cannot
        text = json.dumps(to_builtins(facts, enc_hook=str))
    return text + "\n"

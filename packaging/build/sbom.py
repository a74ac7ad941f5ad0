"""What is in the packages, for machines that look for known faults: a software bill of materials, as CycloneDX.

It names the libraries of the private site directory, and what those say was compiled into them (PEP 770). libpq, the C
library and Python are the distribution's, which tells of them itself.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from bundle import Library, spdx

Component = dict[str, Any]

NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "pkg:generic/highlander")
"""What serial numbers are derived from: the same contents have the same number."""
TOLD: Final = ("type", "name", "version", "purl", "licenses", "hashes")


def document(
    version: str, arch: str, libraries: Iterable[Library], wheels: Path, packager: str, built: datetime
) -> dict[str, Any]:
    """Return the whole bill for the packages of one architecture; ``wheels`` is where the libraries were unpacked."""
    inside = compiled_in(wheels)
    package = {
        "bom-ref": f"pkg:generic/highlander@{version}?arch={arch}",
        "type": "application",
        "name": "highlander",
        "version": version,
        "purl": f"pkg:generic/highlander@{version}?arch={arch}",
        "licenses": [{"license": {"id": "MIT"}}],
    }
    components = [_component(library) for library in libraries]
    inner = {part["bom-ref"]: part for parts in inside.values() for part in parts}
    below = {component["bom-ref"]: inside.get(_called(component["name"]), []) for component in components}
    refs = [component["bom-ref"] for component in components]
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": built.isoformat(),
            "supplier": {"name": packager.partition(" <")[0]},
            "component": package,
        },
        "components": [*components, *sorted(inner.values(), key=lambda part: str(part["bom-ref"]))],
        "dependencies": [
            {"ref": package["bom-ref"], "dependsOn": refs},
            *({"ref": ref, "dependsOn": [part["bom-ref"] for part in parts]} for ref, parts in below.items() if parts),
        ],
    }
    return {**bill, "serialNumber": uuid.uuid5(NAMESPACE, text(bill)).urn}


def _component(library: Library) -> Component:
    purl = f"pkg:pypi/{_called(library.name)}@{library.version}"
    return {
        "bom-ref": purl,
        "type": "library",
        "name": library.name,
        "version": library.version,
        "purl": purl,
        "licenses": [{"expression": spdx(library)}],
    }


def compiled_in(wheels: Path) -> dict[str, list[Component]]:
    """Return what each library says it was compiled from, by its name, for all versions of Python together."""
    found: dict[str, dict[str, Component]] = {}
    for bill in sorted(wheels.glob("*/*.dist-info/sboms/*.json")):
        told = json.loads(bill.read_text("utf-8"))
        parts = found.setdefault(_called(bill.parents[1].name.partition("-")[0]), {})
        for part in told.get("components", ()) if told.get("bomFormat") == "CycloneDX" else ():
            if "purl" in part:
                kept = {key: part[key] for key in TOLD if key in part}
                parts[part["purl"]] = {"bom-ref": part["purl"], **kept}
    return {library: [parts[purl] for purl in sorted(parts)] for library, parts in found.items()}


def _called(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def text(bill: Mapping[str, Any]) -> str:
    """Return a bill as it is shipped: the same bytes for the same contents."""
    return json.dumps(bill, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

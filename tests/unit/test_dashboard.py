"""Claims about the packaged dashboard: it asks for metrics that exist, in words of Prometheus, and its panels fit."""

from __future__ import annotations

import importlib
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.monitoring import DASHBOARD, expressions

ROOT = Path(__file__).parents[2]
PANELS = DASHBOARD["panels"]
WIDTH = 24
"""Columns of a dashboard."""


def test_every_metric_of_the_dashboard_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs/generate")
    families = importlib.import_module("generate").metric_families()
    known = {sample.name for family in families for sample in family.samples}
    named = set(re.findall(r"\bhighlander_\w+", json.dumps(DASHBOARD)))
    assert named
    assert named - known == set()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, from Debian's package prometheus")
def test_prometheus_can_read_every_question_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": one} for number, one in enumerate(expressions())]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    judged = subprocess.run(["promtool", "check", "rules", "rules.yml"], cwd=tmp_path, capture_output=True, check=False)
    assert judged.returncode == 0, judged.stderr.decode()


LEGEND = {"displayMode", "placement", "showLegend", "calcs"}
VARIABLE = {"name", "label", "type", "query", "datasource", "current", "options", "regex", "refresh", "sort", "hide"}
VARIABLE |= {"includeAll", "allValue", "multi", "skipUrlSync"}


def test_legends_and_variables_are_as_the_types_of_grafana_have_them() -> None:
    # All of it was compiled against the npm package @grafana/schema 13.2.3, whose types have found these two wrong.
    legends = [panel["options"]["legend"] for panel in PANELS if "legend" in panel.get("options", {})]
    assert legends
    assert [set(legend) for legend in legends if set(legend) != LEGEND] == []
    for variable in DASHBOARD["templating"]["list"]:
        assert set(variable) <= VARIABLE
        assert {"text", "value"} <= set(variable.get("current", {"text", "value"}))


def test_panels_fit_beside_each_other() -> None:
    places = [panel["gridPos"] for panel in PANELS]
    taken = [
        set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"]))) for at in places
    ]
    assert all(at["x"] + at["w"] <= WIDTH for at in places)
    assert len(set().union(*taken)) == sum(map(len, taken))
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_every_panel_asks_the_prometheus_that_the_reader_has_chosen() -> None:
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    asking = [panel for panel in PANELS if panel["type"] != "row"]
    assert [panel["title"] for panel in asking if panel["datasource"] != chosen or not panel["targets"]] == []
    for panel in asking:
        names = [target["refId"] for target in panel["targets"]]
        assert len(set(names)) == len(names), panel["title"]
        assert all(target["datasource"] == chosen for target in panel["targets"])
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource", "program"}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(PANELS)))
    assert used - variables == {"__rate_interval", "__range"}

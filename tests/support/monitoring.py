"""What the packages have for Prometheus and Grafana."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MONITORING = Path(__file__).parents[2] / "packaging/monitoring"
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text("utf-8"))
FOR_GRAFANA = {"$program": ".*", "$__rate_interval": "5m", "$__range": "1h"}
"""What Grafana puts into an expression before it asks Prometheus."""


def expressions() -> list[str]:
    """Return every question of the dashboard, as Prometheus gets it."""
    targets = [target for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    found = [one["expr"] for one in (*targets, *DASHBOARD["annotations"]["list"])]
    for variable, value in FOR_GRAFANA.items():
        found = [expression.replace(variable, value) for expression in found]
    return found

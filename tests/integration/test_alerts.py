"""Claims about the packaged alerts: they name metrics that exist, and a rule that is broken on purpose is found out."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.long import first_of
from tests.unit.test_docs_reference import PROMISED_METRICS

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "packaging/monitoring"
RULES, TESTS = ((MONITORING / name).read_text("utf-8") for name in ("alerts.yml", "alerts-test.yml"))
HEAD, *ALERTS = re.split(r"(?=^      - alert: )", RULES, flags=re.MULTILINE)
BY_NAME = {alert.split()[2]: alert for alert in ALERTS}
NUDGE = 0.008
"""By so much a fraction is changed: 0.99 stays one."""

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool, from Debian's package prometheus"
)


def judged(directory: Path, rules: str, tests: str) -> subprocess.CompletedProcess[str]:
    """Have promtool test the rules."""
    (directory / "alerts.yml").write_text(rules, "utf-8")
    (directory / "alerts-test.yml").write_text(tests, "utf-8")
    command = ["promtool", "test", "rules", "alerts-test.yml"]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


def asked_of(alert: str) -> str:
    """Return the tests that ask for an alert, without what they ask of others."""
    head, *each = re.split(r"(?=^  - name: )", TESTS, flags=re.MULTILINE)
    found = []
    for one in each:
        start, *asked = re.split(r"(?=^      - (?:\{)?alertname: )", one, flags=re.MULTILINE)
        if ours := [question for question in asked if re.search(rf"alertname: {alert}\b", question)]:
            found.append(start + "".join(ours))
    return head + "".join(found)


def broken(rule: str) -> Iterator[tuple[str, str]]:
    """Yield a rule, changed in one place each time, and what was changed."""
    start = rule.index("expr:")
    stop = next(rule.index(key) for key in ("        for:", "        labels:") if key in rule)
    text = rule[start:stop]

    def changed(found: re.Match[str], new: str) -> tuple[str, str]:
        at = start + found.start()
        return rule[:at] + new + rule[at + len(found[0]) :], f"{found[0].strip()} to {new.strip()}"

    for found in re.finditer(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", text):
        step = NUDGE if "." in found[0] else 1
        yield from (changed(found, f"{float(found[0]) + sign * step:g}") for sign in (-1, 1))
    for found in re.finditer(r"\[(\d+)m\]", text):
        yield from (changed(found, f"[{int(found[1]) + sign}m]") for sign in (-1, 1))
    for found in re.finditer(r"\b(max|min)(?=_over_time\(| by)", text):
        yield changed(found, "min" if found[0] == "max" else "max")
    for found in re.finditer(r"\bhighlander_\w+|\bup\b|job=\"highlander\"", text):
        yield changed(found, 'job="other"' if "=" in found[0] else f"{found[0]}_x")
    for found in re.finditer(r"^ +and .*\n|^ +or \((?:.*\n)+? +\)\n", text, re.MULTILINE):
        yield changed(found, "")
    if held := re.search(r"(?<=        for: )(\d+)([mh])", rule):
        seconds = int(held[1]) * {"m": 60, "h": 3600}[held[2]]
        for other in (seconds - 15, seconds + 15):
            yield rule[: held.start()] + f"{other}s" + rule[held.end() :], f"for: {held[0]} to {other}s"


@needs_promtool
@pytest.mark.parametrize("alert", BY_NAME)
def test_every_alert_comes_and_stays_away_as_its_tests_say(alert: str, tmp_path: Path) -> None:
    """Each by its own rule alone: promtool evaluates all rules that it is given for each test."""
    tests = asked_of(alert)
    assert alert in tests
    done = judged(tmp_path, HEAD + BY_NAME[alert], tests)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_the_file_of_all_rules_is_one_that_prometheus_takes(tmp_path: Path) -> None:
    (tmp_path / "alerts.yml").write_text(RULES, "utf-8")
    checked = subprocess.run(
        ["promtool", "check", "rules", "alerts.yml"], cwd=tmp_path, capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


@needs_promtool
@pytest.mark.parametrize("alert", first_of(BY_NAME))
def test_a_rule_that_is_broken_on_purpose_fails_its_tests(alert: str, tmp_path: Path) -> None:
    tests = asked_of(alert)
    assert judged(tmp_path, HEAD + BY_NAME[alert], tests).returncode == 0
    outcomes = [(change, judged(tmp_path, HEAD + rule, tests).stderr) for rule, change in broken(BY_NAME[alert])]
    assert outcomes
    assert [change for change, said in outcomes if "got:" not in said] == []


def test_every_metric_of_an_alert_exists() -> None:
    known = {f"highlander_{name}" for name in PROMISED_METRICS.split()} | {"highlander_lease_seconds"}
    named = {re.sub(r"_bucket$", "", name) for name in re.findall(r"\bhighlander_\w+", "".join(ALERTS))}
    assert named - known == {"highlander_program_unkillable_processes"}


def test_every_alert_has_its_page_for_the_night() -> None:
    page = (ROOT / "docs/how-to/alerts.md").read_text("utf-8")
    headings = re.findall(r"^## (Highlander\w+)$", page, re.MULTILINE)
    assert headings == list(BY_NAME)
    assert [
        name for name, rule in BY_NAME.items() if f'runbook: "docs/how-to/alerts.md#{name.lower()}"' not in rule
    ] == []

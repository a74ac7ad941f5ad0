"""Which tests may be skipped: ``--forbid-skips`` fails a run that skips others; every run sums up why in the end."""

from __future__ import annotations

from collections import Counter

import pytest

ELSEWHERE = ("no packages were built; make packages-test does",)
"""Another target runs them."""
BEYOND = (
    "booting a machine takes",
    "login triggers came with PostgreSQL 17",
    "needs Python",
    "needs a mirror of Debian",
    "needs a package index",
    "needs cgroups",
    "needs chromium",
    "needs root and the freezer of cgroup v1",
    "needs systemd-analyze",
    "network namespaces are refused here",
    "no file system can be mounted",
    "no writable cgroup v2 here",
    "nobody may be protected from the OOM killer here",
    "out of reach for",
    "root may always fork, unless a cgroup with the controller `pids` can be made",
    "this clone has no commit",
    "tracing is not allowed here",
    "transaction_timeout came with PostgreSQL 17",
)
"""How reasons begin that no package and no right of root would mend, in a container say; or a package of 300 MB."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of those who have installed what the tests need."""
    parser.addoption("--forbid-skips", action="store_true", help="fail when a test is skipped that need not be")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run for a skip that it should not have."""
    if session.config.getoption("forbid_skips") and _needless(_reasons(session.config)) and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say in three lines at most what was skipped, and why."""
    reasons = _reasons(config)
    needless = _needless(reasons)
    kinds = {
        "that another target runs": Counter({why: n for why, n in reasons.items() if why.startswith(ELSEWHERE)}),
        "that cannot run on this machine": Counter({why: n for why, n in reasons.items() if why.startswith(BEYOND)}),
        "for lack of a program, or of root" + "; they are forbidden" * config.getoption("forbid_skips"): needless,
    }
    for kind, found in kinds.items():
        if found:
            told = "; ".join(f"{why} ({count})" for why, count in found.most_common())
            terminalreporter.write_line(f"skipped {found.total()} {kind}: {told}")


def _reasons(config: pytest.Config) -> Counter[str]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:  # a process of several: the first one counts
        return Counter()
    skipped = [report.longrepr for report in reporter.stats.get("skipped", []) if isinstance(report.longrepr, tuple)]
    return Counter(why.removeprefix("Skipped: ") for _, _, why in skipped)


def _needless(reasons: Counter[str]) -> Counter[str]:
    return Counter({why: count for why, count in reasons.items() if not why.startswith((*ELSEWHERE, *BEYOND))})

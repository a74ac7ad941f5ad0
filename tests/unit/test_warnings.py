"""Which warnings of a server leave it open whether a commit is safe."""

from __future__ import annotations

import pytest

from highlanderd.postgres.replies import ServerMessage


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("SyncRepWaitForLSN", "canceling wait for synchronous replication due to user request"),
        ("SyncRepWaitForLSN", "storniere Warten auf synchrone Replikation wegen Benutzeraufforderung"),
        ("", "something in between leaves the function out"),
        ("forks_own_commit_wait", "the commit was degraded"),
    ],
)
def test_a_warning_from_what_waits_for_commits_leaves_a_doubt(source: str, text: str) -> None:
    assert ServerMessage("01000", text, source).doubtful


@pytest.mark.parametrize("source", ["exec_stmt_raise", "explain_ExecutorEnd", "log_audit_event", "GetNewTransactionId"])
def test_a_warning_from_anything_else_leaves_none(source: str) -> None:
    assert not ServerMessage("01000", "canceling wait for synchronous replication", source).doubtful

"""What one program has written lately on this node, over its terms: the loggers have it, and this looks it up."""

from __future__ import annotations

from typing import Final

from highlanderd.children.logger_view import Count, LoggerView
from highlanderd.core.status import OutputLine

KEPT: Final = 200
"""Lines of one program; a logger keeps as many."""


class ProgramOutput:
    """The last lines of one program, and the view of its present logger."""

    def __init__(self, program: str, count: Count) -> None:
        self._program, self._count = program, count
        self._former: tuple[OutputLine, ...] = ()
        """The last lines of earlier terms."""
        self._base = 0
        """The number of the last one of them."""
        self._view: LoggerView | None = None

    def last(self, most: int = KEPT) -> tuple[OutputLine, ...]:
        """Return the last lines, oldest first, stdout and stderr as they came."""
        lines = () if self._view is None else self._view.report["last"]
        present = (
            OutputLine(self._base + number, time, stream, text.decode("utf-8", "replace"))
            for number, time, stream, text in lines
        )
        return (*self._former, *present)[-min(most, KEPT) :]

    def catch_up(self) -> None:
        """Count what the present logger has reported since it was looked at last."""
        if self._view is not None:
            self._view.catch_up()

    def follow(self, report: int) -> None:
        """Look at another logger from now on. Owns the descriptor of its reports."""
        if self._view is not None:
            self._view.close()
            self._former = self.last()
            self._base += self._view.report["number"]
        self._view = LoggerView(report, self._program, self._count)

    def finish(self) -> None:
        """The child has ended: its logger has a moment for the last lines."""
        if self._view is not None:
            self._view.finish()

    def close(self) -> None:
        """Look at no logger any more."""
        if self._view is not None:
            self._view.close()

    @property
    def reopened(self) -> int:
        """How often the present logger has opened its files anew."""
        return 0 if self._view is None else int(self._view.report["reopened"])

    @property
    def troubles(self) -> dict[str, str]:
        """What the present logger cannot write to, and why."""
        return {} if self._view is None else dict(self._view.report["troubles"])

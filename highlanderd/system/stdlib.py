"""``signal`` and ``socket`` as the C modules below them: their enums cost each keeper a quarter of its memory.

The types are those of the public modules; at run time only what both have in common may be used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    import signal
    import socket
else:
    import _signal as signal
    import _socket as socket

__all__ = ["signal", "socket"]

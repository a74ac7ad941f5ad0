"""``highlanderd import``: a supervisord.conf with its includes, written anew as this daemon's configuration.

``reading.py`` finds the sections as supervisord would, ``programs.py`` translates those of programs, ``document.py``
the rest, and writes it all. What has no equal here stands in the result as a comment, with the reason.
"""

from highlanderd.supervisord.document import imported

__all__ = ["imported"]

"""``highlanderd run``: one program, led as a daemon leads it, without a file and as part of the caller's own session.

Three kinds of process take part. ``front.py`` is the command that was typed: it stands where the caller expects the
program, passes signals on, and ends with the program's exit code. Below it are a guardian with its keeper, as below any
daemon, and a worker that ``worker.py`` composes of the daemon's own parts: pool, fleet, beat, presence. What only a
daemon for many programs needs is left out: listeners, reloads, orders from other nodes.
"""

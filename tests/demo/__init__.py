"""``make demo``: three nodes on one host, a handful of programs, and somebody who kills whoever leads, in turn."""

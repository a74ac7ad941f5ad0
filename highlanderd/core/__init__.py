"""Every decision about leadership, as pure functions: no clock, no network, no file, no log.

Begin with ``machine.py``: it explains the life of a program, and names the modules that it rests on.
"""

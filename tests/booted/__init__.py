"""Debians that are really booted: one machine (``machine.py``), three of them as a cluster (``cluster.py``), and what
befalls it (``faults.py``). The tests are in ``packaging/``, because all of this needs the packages.
"""

"""Debians that are really booted. The tests are in ``packaging/``, because all of this needs the packages.

One machine (``machine.py``), three of them as a cluster (``cluster.py``), what befalls it (``faults.py``) and what that
costs (``rounds.py``), and the next version of the package (``versions.py``).
"""

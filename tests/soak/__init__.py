"""A soak: 200 programs that misbehave on three nodes, orders and faults at random. Nothing may grow, nothing may stay.

Before and after the storm the cluster is brought into one and the same quiet state. What each process of a daemon uses
is compared between the two, and the nodes, the ledger, ``/proc`` and the journal must say the same of each program.
"""

from typing import Final

SECONDS: Final = "HIGHLANDER_SOAK_SECONDS"
"""In the environment: how long the programs misbehave, the warm-up included."""

"""Chaos: real daemons, real faults, and an oracle that the children write.

``python -m tests.chaos`` (``make chaos``) plays rounds on several clusters side by side and prints the table;
``test_chaos_*.py`` play one round for each kind of fault.

    network.py   who hears whom: namespaces and a switch, or TCP doors without the privilege
    bed.py       one cluster: server, three nodes, children that count
    oracle.py    what the children wrote, in the journal and in PostgreSQL, and what must never be found there
    faults.py    what a fault is, and the registry; faults_*.py are the faults
    rounds.py    one round: strike, wait, undo, wait until all is whole again, judge
    table.py     many rounds as a table

To write a fault, write a function that does it to a bed and gives a ``Strike``: what it did (for the log), which nodes
it concerns, and how to undo it. Enter it with ``@fault`` in a module ``faults_*.py`` that ``faults.ALL`` names::

    @fault("backend terminated", bound=AWAY, spares=True)
    def terminate_backend(bed: Bed, chance: Random) -> Strike:
        program, node = bed.some_leader(chance)
        bed.sql("SELECT pg_terminate_backend(backend_pid) FROM highlander.lease WHERE program = %s", [program])
        return Strike(f"backend of {program} on {node.name}", [node])

The bound is the longest gap that a program of a concerned node may have; what ``spares`` children restarts none while
it lasts no longer than ``borne``, 4/10 of a lease unless the fault says otherwise. An undo may come when other faults
have been there: it must not mind. Whatever is dead afterwards, ``bed.mend()`` starts again. A fault that changes what
the bed stands on (another primary, a pooler) sets ``spends=True``: the bed is thrown away after its round. A stated
exception names itself in ``doubling`` or ``losing``; where it is promised how long two may live at once, ``together``
is that bound.
"""

"""``--doctor``: checks PostgreSQL as a program's session would find it, and reports each problem with its cure.

It changes nothing, takes no lock that another session waits for, and ends by itself whatever the network does.
"""

from highlanderd.doctor.examination import examine
from highlanderd.doctor.findings import Finding, Severity
from highlanderd.doctor.report import report

__all__ = ["Finding", "Severity", "examine", "report"]

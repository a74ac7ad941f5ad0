"""``--doctor``: looks at PostgreSQL as a program's session would find it, and says what will not do, with the cure.

It changes nothing, takes no lock that anybody waits for, and ends by itself whatever the network does.
"""

from highlanderd.doctor.examination import examine
from highlanderd.doctor.findings import Finding, Severity
from highlanderd.doctor.report import report

__all__ = ["Finding", "Severity", "examine", "report"]

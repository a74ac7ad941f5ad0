"""highlanderd: programs that run exactly once in a cluster, led through PostgreSQL."""

__version__ = "0.1.0"

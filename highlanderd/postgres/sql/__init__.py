"""All SQL that the daemon sends in regular life. What creates and migrates the ledger is in ``schema/``."""

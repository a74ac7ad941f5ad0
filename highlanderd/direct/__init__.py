"""What ``highlanderctl`` asks PostgreSQL itself where no daemon runs: in its own process, for imports take long."""

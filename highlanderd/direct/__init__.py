"""What ``highlanderctl`` asks PostgreSQL itself, where no daemon runs: a process of its own, for its imports take long."""

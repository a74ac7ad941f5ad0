"""What tests stand on: servers, doors, daemons, processes, and how to wait for a fact."""

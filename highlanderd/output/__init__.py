"""What goes out of the daemon: children's lines and its own log, through one thread that may block."""

"""The cells of the machine's table, a module for each state that does something of its own."""

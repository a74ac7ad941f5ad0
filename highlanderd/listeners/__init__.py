"""What is asked from outside: the control socket for operators, the TCP listener for machines."""

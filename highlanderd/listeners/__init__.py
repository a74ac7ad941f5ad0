"""The listeners: the control socket for operators, and the TCP listener for monitoring and load balancers."""

"""What is shipped installs, starts, upgrades and goes."""

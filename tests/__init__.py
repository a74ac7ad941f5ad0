"""The tests of highlanderd: see README.md beside this file."""

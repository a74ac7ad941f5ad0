"""The guardian and its keepers: they stand by the children, import the standard library only, and outlive workers."""

"""The worker's end of keepers: from a granted term to a child, and from what a keeper reports to an event."""

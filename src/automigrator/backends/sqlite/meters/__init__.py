"""What statements do to a database file."""

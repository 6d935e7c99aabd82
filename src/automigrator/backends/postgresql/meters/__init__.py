"""What statements do to a database, and how it is used meanwhile."""

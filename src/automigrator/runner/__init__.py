"""The run of one target, in the order in which it happens."""

"""What is asked of a target besides a run: how it stands, a checkup, a rollback."""

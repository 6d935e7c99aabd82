"""What should be, read from the files' text: nothing is executed, Alembic is not imported."""

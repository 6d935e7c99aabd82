"""The command `automigrator`: a run, and what an operator asks of databases besides."""

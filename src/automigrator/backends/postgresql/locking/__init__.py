"""The migration lock on PostgreSQL: its key, the session that holds it, and how it is taken."""

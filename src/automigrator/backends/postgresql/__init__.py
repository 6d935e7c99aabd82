"""PostgreSQL: a database of a server."""

"""The gate of an ASGI application: the server is up while the databases are migrated."""

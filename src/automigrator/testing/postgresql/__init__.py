"""A PostgreSQL server of the tests' own: where its programs are, and a connection to it."""

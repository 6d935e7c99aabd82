"""SQLite: a file, or a database in the memory of the application."""

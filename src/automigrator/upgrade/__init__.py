"""Driving Alembic; the one package that imports it. Import its modules lazily."""

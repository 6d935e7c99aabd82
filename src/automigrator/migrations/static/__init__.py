"""Alembic histories read as text: no import of Alembic, no execution of revisions."""

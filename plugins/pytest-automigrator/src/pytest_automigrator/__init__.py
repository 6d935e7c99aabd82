"""A migrated database for every test, and tests and faults for Alembic migrations.

pytest loads `pytest_automigrator.plugin`; nothing else is imported before a test uses it.
"""

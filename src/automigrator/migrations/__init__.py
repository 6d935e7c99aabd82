"""Alembic: the only package that imports it. Histories, env.py, and the ways to drive it."""

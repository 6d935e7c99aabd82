"""Copies of a database: how they are made, kept and listed, and what new ones are copied of."""

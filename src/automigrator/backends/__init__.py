"""Backends: one kind of database each, behind one contract."""

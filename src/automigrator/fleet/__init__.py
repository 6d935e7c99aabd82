"""Fleets: many tenants, each a database or a schema of its own, brought to one revision."""

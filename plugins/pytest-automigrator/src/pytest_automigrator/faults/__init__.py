"""Faults for migrations: a revision fails, or its process is killed, at every statement."""

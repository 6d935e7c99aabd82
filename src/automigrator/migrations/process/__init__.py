"""The process around the runs of an env.py: which run calls, and what it has changed."""

"""The runs of env.py: which of them calls, and what each has changed in the process."""

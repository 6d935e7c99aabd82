"""Support: what any program could use; it knows nothing of migrations."""

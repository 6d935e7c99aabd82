"""Snapshots as files: pg_dump, pg_restore and psql."""

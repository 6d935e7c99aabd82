"""Rehearsals: what is pending is applied to a copy, measured, and held against limits."""

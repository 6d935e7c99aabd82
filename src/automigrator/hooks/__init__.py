"""Hooks: what plugins implement, what they are shown, and how they are called."""

"""Replay: pending SQL, rendered once and sent by the driver, where that is proved the same."""

"""The contract of a backend, in parts that may be absent."""

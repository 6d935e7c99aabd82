"""The one version of the core and its plugins; their builds read it from here."""

__version__ = "0.1.0"

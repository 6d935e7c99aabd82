"""automigrator: bring databases to the revision the code expects, at startup."""

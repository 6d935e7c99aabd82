"""Events: what happens in a run, told to the log, to subscribers and to plugins."""

"""The `dynamic-ofa` command: one file a verb."""

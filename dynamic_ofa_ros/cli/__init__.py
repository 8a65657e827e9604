"""The `dynamic-ofa` command: one file per verb."""

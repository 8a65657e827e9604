"""The demo: processes, a scenario, a live view, and a record of what happened."""

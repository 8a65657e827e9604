"""Simulate the node's runtime manager on a device in simulated time."""

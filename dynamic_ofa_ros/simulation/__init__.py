"""Simulation: the runtime manager of the node, on a device that exists in simulated time only."""

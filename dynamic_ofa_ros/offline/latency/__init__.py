"""Measure and predict the latency of sub-networks."""

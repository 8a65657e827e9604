"""Find the sub-networks that are the most accurate for their latency."""

"""Find the most accurate sub-networks for given latencies."""
